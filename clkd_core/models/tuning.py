"""What of a model learns: frozen parts, and LoRA on the language model through peft.

peft puts its low-rank layers into the language model in place; :func:`merge_lora` folds them into
the weights they adapt, so that a checkpoint is a plain model and whoever loads it needs no peft.
"""

from collections.abc import Iterator

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from clkd_core.errors import ConfigError
from clkd_core.models.base import VlmBase
from clkd_core.models.moe import FullMoeFfn, Routed, RoutedLoraLinear


def freeze_vision(model: VlmBase) -> None:
    """Keep the vision tower as it is, statistics of its normalisation layers included."""
    model.vision_tower.requires_grad_(False)
    model.frozen_tower = True
    model.train(model.training)


def freeze_text_embedding(model: VlmBase) -> None:
    """Keep the embedding as it is, and with it an output layer that is tied to it."""
    model.text_embedding().requires_grad_(False)


def add_lora(
    model: VlmBase, *, rank: int, alpha: int, dropout: float, targets: tuple[str, ...] | None
) -> None:
    """Adapt linear layers of the language model; of the rest of it only experts learn on.

    Args:
        model: changed in place.
        rank: of every adapter.
        alpha: adapters' outputs are scaled by alpha / rank.
        dropout: share of inputs an adapter does not see in training.
        targets: last names of the linear layers; None: the attention's projections.

    Raises:
        ConfigError: no layer of the language model has such a name.
    """
    language: nn.Module = model.get_submodule("language")
    names = targets or model.attention_projections
    layers = dict(_adaptable_layers(language))
    if not set(names) <= set(layers.values()):
        known = sorted(set(layers.values()))
        raise ConfigError(f"lora targets are {list(names)}, expected names of {known}")
    paths = [path for path, name in layers.items() if name in names]
    learning = [p for p in _expert_parameters(language) if p.requires_grad]
    config = PeftLoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=paths)
    inject_adapter_in_model(config, language)
    for parameter in learning:
        parameter.requires_grad_(True)


@torch.no_grad()
def merge_lora(model: VlmBase) -> None:
    """Fold every adapter into the weights it adapts and take it out; no adapters: nothing."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, layer.get_base_layer())


def _adaptable_layers(language: nn.Module) -> Iterator[tuple[str, str]]:
    """(path, name) of linear layers; below routed low-rank experts it is the shared layer.

    Routers, deltas and copies of experts are left out: they learn as they are.
    """
    own = [path for path, m in language.named_modules() if isinstance(m, FullMoeFfn)]
    for path, module in language.named_modules():
        owner, _, name = path.rpartition(".")
        if not isinstance(module, nn.Linear) or any(path.startswith(f"{o}.") for o in own):
            continue
        if isinstance(language.get_submodule(owner), RoutedLoraLinear):
            if name == "dense":
                yield path, owner.rpartition(".")[2]
        elif name != "router":
            yield path, name


def _expert_parameters(language: nn.Module) -> Iterator[nn.Parameter]:
    """What the conversion to experts added: routers, deltas, copies."""
    for module in language.modules():
        if isinstance(module, Routed):
            yield from module.router.parameters()
        if isinstance(module, RoutedLoraLinear):
            yield from (*module.down.parameters(), *module.up.parameters())
        if isinstance(module, FullMoeFfn):
            yield from module.experts.parameters()
