"""All model families by name: a new one is one file and one entry point.

The group ``clkd.families`` maps a name to the model class, which names its config class in
``config_class``; the config's ``family`` field is that name.
"""

from collections.abc import Mapping
from typing import Any

from clkd_core.cli import find_entries, load_entry
from clkd_core.config import config_from_dict
from clkd_core.models.base import VlmBase, VlmConfig
from clkd_core.models.tokenizer import TextTokenizer

GROUP = "clkd.families"


def load_families() -> dict[str, type[VlmBase]]:
    """Model classes by family; importing one costs what its libraries cost.

    Raises:
        ConfigError: a family needs a Python module that is not installed.
    """
    return {name: load_entry(target) for name, target in sorted(find_entries(GROUP).items())}


def build_vlm(
    architecture: Mapping[str, Any], tokenizer: TextTokenizer, *, source: str
) -> VlmBase:
    """A model with fresh weights from plain values, as ``config.json`` holds them.

    Args:
        architecture: of any family.
        tokenizer: of its language model.
        source: names the values in errors.

    Raises:
        ConfigError: an unknown family, an unknown key or a value out of its range.
        ValueError: the parts do not fit each other.
    """
    return build_from_config(config_from_dict(VlmConfig, architecture, source=source), tokenizer)


def build_from_config(config: VlmConfig, tokenizer: TextTokenizer) -> VlmBase:
    """A model with fresh weights.

    Raises:
        ValueError: the parts do not fit each other.
    """
    for family in load_families().values():
        if type(config) is family.config_class:  # a family may build on another one's config
            return family(config, tokenizer)
    raise ValueError(f"no family of {GROUP} is built from a {type(config).__name__}")
