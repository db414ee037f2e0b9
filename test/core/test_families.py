"""A family and a loss of somebody else's, taken from the page that explains how."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_vlm import SQUARES_VERSION, tiny_model, tiny_tokenizer, write_squares

from clkd_core.models.base import VlmConfig
from clkd_core.models.families import build_from_config, build_vlm, load_families
from clkd_core.models.llama_vlm import LlamaVlm

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)

CONFIG = """
out: {out}
bf16: false
device: cpu
vocab_size: 512
questions_per_sample: 1
data: {{root: {root}, version: {version}}}
teacher: {{steps: 1, batch_size: 4}}
distill: {{steps: 2, batch_size: 4}}
student: {{moe: {{adapter_experts: 2, lora_rank: 1}}}}
model:
  family: llama-mean-view
  tokens_per_view: 2
  vision:
    {{height_px: 36, width_px: 64, stem_width: 8, channels: [8, 8, 8, 16],
      side_channels: [8, 8, 8]}}
  language: {{hidden_size: 16, layers: 2, heads: 2, ffn_size: 24}}
extra_terms: [{{kind: focal, weight: 0.5, focus: 1.0}}]
"""


def install(site: Path) -> None:
    """Lay the page's files where an installed package would have them."""
    files = dict(BLOCK.findall(PAGE))
    assert set(files) == {"mean_view.py", "focal.py", "entry_points.toml"}
    for name in ("mean_view.py", "focal.py"):
        (site / name).write_text(files[name])
    info = site / "somebody_elses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody-elses\nVersion: 1.0\n")
    groups = re.sub(r'\[project\.entry-points\."(.+)"\]', r"[\1]", files["entry_points.toml"])
    (info / "entry_points.txt").write_text(groups.replace('"', ""))


LOAD = """
import torch
from clkd_core.models.checkpoint import load_vlm
model = load_vlm("{student}")
views = torch.zeros(1, 6, 3, 36, 64)
present = torch.ones(1, 6, dtype=torch.bool)
scene = model.scene_tokens(model.encode_views(views, present), present)
print(type(model).__name__, scene.shape[1])
"""


def run_with(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python that finds what is installed in ``site``; one word is a program."""
    words = words if len(words) > 1 else ("-c", *words)
    env = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=100
    )


@pytest.mark.slow
def test_the_pages_family_and_loss_train_from_their_own_package(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site)
    write_squares(tmp_path / "set", train=8, val=2)
    text = CONFIG.format(out=tmp_path / "run", root=tmp_path / "set", version=SQUARES_VERSION)
    (tmp_path / "mean.yaml").write_text(text)
    done = run_with(site, "-m", "clkd_core.distill", str(tmp_path / "mean.yaml"))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    rest = 0.01 * last["balance"] + 1e-3 * last["router_z"]
    total = last["h2g"] + last["alpha"] * last["kd"] + 0.5 * last["focal"] + rest
    assert last["loss"] == pytest.approx(total, rel=1e-4)
    assert 0 < last["focal"]
    loaded = run_with(site, LOAD.format(student=tmp_path / "run" / "student"))
    assert loaded.stdout.split() == ["MeanViewVlm", "2"], loaded.stderr


def test_the_examples_are_short() -> None:
    for name, text in BLOCK.findall(PAGE):
        assert len(text.splitlines()) <= 32, name


def test_our_own_families_are_found_and_built_by_name() -> None:
    assert load_families()["llama"] is LlamaVlm
    language = {"hidden_size": 16, "layers": 1, "heads": 2, "ffn_size": 8}
    vision = {"kind": "patch", "height_px": 32, "width_px": 32}
    architecture = {"vision": vision, "language": language}
    assert isinstance(build_vlm(architecture, tiny_tokenizer(), source="test"), LlamaVlm)


def test_a_config_of_no_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no family of clkd\.families is built from a VlmConfig"):
        build_from_config(VlmConfig(), tiny_model().tokenizer)
