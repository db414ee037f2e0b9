"""Every kind of tower through the same door."""

import pytest
import torch
from timm.models import create_model
from transformers import CLIPVisionConfig, CLIPVisionModel

from clkd_core.models.halving import halved_state, kept_blocks
from clkd_core.models.vision.build import VisionConfig, build_tower
from clkd_core.models.vision.clip_tower import ClipConfig, ClipTower
from clkd_core.models.vision.patch_tower import PatchConfig
from clkd_core.models.vision.pixels import CLIP_MEAN, CLIP_STD, Normalise
from clkd_core.models.vision.timm_tower import TimmConfig, TimmTower
from clkd_core.models.vision.two_scale import TwoScaleConfig
from clkd_core.types import CAMERAS

TINY_CLIP = ClipConfig(image_px=28, patch_px=14, width=16, layers=3, heads=2, ffn_size=24)
SWIN_T = TimmConfig(blocks=(2, 2, 6, 2))
TOWERS: dict[str, VisionConfig] = {
    "two_scale": TwoScaleConfig(height_px=36, width_px=64, stem_width=8, channels=(8, 8, 8, 16),
                                side_channels=(8, 8, 8)),
    "swin": TimmConfig(height_px=64, width_px=64, blocks=(1, 1, 1, 1)),
    "vit": TimmConfig(model="vit_tiny_patch16_224", height_px=32, width_px=48, blocks=(2,)),
    "convnext": TimmConfig(
        model="convnext_atto", height_px=64, width_px=96, blocks=(1, 1, 2, 1)
    ),
    "convnet": TimmConfig(model="tf_efficientnet_lite0", height_px=64, width_px=96),
    "clip": TINY_CLIP,
    "patch": PatchConfig(height_px=64, width_px=96, width=24),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", TOWERS)
def test_tower_gives_the_patches_and_width_that_its_config_says(name: str) -> None:
    config = TOWERS[name]
    tower = build_tower(config).eval()
    shape = (2, len(CAMERAS), 3, config.height_px, config.width_px)
    views = torch.randint(0, 256, shape, dtype=torch.uint8)
    features = tower(views)
    assert features.shape == (2, len(CAMERAS), config.patches, config.feature_width)
    other = views.clone()
    other[1, 4] = 255 - other[1, 4]
    changed = (tower(other) - features).abs().amax(dim=(2, 3)) > 1e-4
    assert changed.nonzero().tolist() == [[1, 4]]


@pytest.mark.parametrize("name", TOWERS)
def test_stacks_name_blocks_that_are_there(name: str) -> None:
    config = TOWERS[name]
    keys = [f"vision_tower.{key}" for key in build_tower(config).state_dict()]
    for stack in config.stacks():
        for prefix in stack.prefixes:
            numbers = {k.removeprefix(prefix).split(".")[0] for k in keys if k.startswith(prefix)}
            assert numbers == {str(i) for i in range(stack.blocks)}


@torch.no_grad()
def test_swin_tower_computes_what_timm_does() -> None:
    torch.manual_seed(0)
    tower = TimmTower(TimmConfig(height_px=224, width_px=224, blocks=(1, 1, 1, 1))).eval()
    theirs = create_model("swin_tiny_patch4_window7_224", num_classes=0, depths=(1, 1, 1, 1))
    theirs.load_state_dict(tower.net.state_dict())
    pixels = torch.rand(1, 3, 224, 224)
    mean, std = (torch.tensor(theirs.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    expected = theirs.eval().forward_features((pixels - mean) / std).flatten(1, 2)
    torch.testing.assert_close(tower(pixels[:, None] * 255)[:, 0], expected, atol=1e-4, rtol=1e-4)


def test_swin_t_has_49_patches_and_halves_to_one_one_three_one() -> None:
    assert (SWIN_T.patches, SWIN_T.feature_width) == (49, 768)
    halved = SWIN_T.with_blocks({s.name: len(kept_blocks(s.blocks, "every_other"))
                                 for s in SWIN_T.stacks()})  # fmt: skip
    assert halved.blocks == (1, 1, 3, 1)


@torch.no_grad()
def test_clip_tower_gives_clips_penultimate_layer_without_the_class_token() -> None:
    torch.manual_seed(0)
    whole = CLIPVisionModel(CLIPVisionConfig(
        image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=4,
        num_attention_heads=2, intermediate_size=24)).eval()  # fmt: skip
    tower = ClipTower(TINY_CLIP).eval()
    kept = {k: v for k, v in whole.state_dict().items() if k in tower.clip.state_dict()}
    tower.clip.load_state_dict(kept)
    views = torch.randint(0, 256, (1, 2, 3, 28, 28))
    pixels = Normalise(CLIP_MEAN, CLIP_STD)(views[0])
    states = whole(pixel_values=pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(tower(views)[0], states[-2][:, 1:])


@torch.no_grad()
@pytest.mark.parametrize("name", ["swin", "clip", "vit"])
def test_halved_towers_hold_every_other_block_of_the_whole(name: str) -> None:
    config = {
        "swin": TimmConfig(height_px=64, width_px=64, blocks=(2, 2, 4, 2)),
        "clip": TINY_CLIP,
        "vit": TimmConfig(model="vit_tiny_patch16_224", height_px=32, width_px=48, blocks=(4,)),
    }[name]
    whole = {f"vision_tower.{k}": v for k, v in build_tower(config).state_dict().items()}
    state = halved_state(whole, config, "every_other")  # type: ignore[arg-type]
    blocks = {s.name: len(kept_blocks(s.blocks, "every_other")) for s in config.stacks()}
    half = build_tower(config.with_blocks(blocks))
    half.load_state_dict({k.removeprefix("vision_tower."): v for k, v in state.items()})
    for stack in config.stacks():
        prefix = stack.prefixes[0]
        for new, old in enumerate(kept_blocks(stack.blocks, "every_other")):
            tails = [
                k.removeprefix(f"{prefix}{old}.") for k in whole if k.startswith(f"{prefix}{old}.")
            ]
            assert tails
            assert all(
                torch.equal(state[f"{prefix}{new}.{t}"], whole[f"{prefix}{old}.{t}"])
                for t in tails
            )


def test_no_tower_of_timm_drops_blocks_at_random() -> None:
    net = build_tower(TOWERS["swin"]).net
    assert not any(getattr(module, "drop_prob", 0.0) for module in net.modules())


def test_configs_refuse_what_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="timm has no model 'swim_tiny'"):
        TimmConfig(model="swim_tiny")
    with pytest.raises(ValueError, match=r"timm cannot build convnext_tiny with blocks \[1, 2\]"):
        TimmConfig(model="convnext_tiny", blocks=(1, 2))
    with pytest.raises(ValueError, match=r"mobilenetv3_small_100 with blocks \[1, 2\]"):
        TimmConfig(model="mobilenetv3_small_100", blocks=(1, 2))
    with pytest.raises(ValueError, match="patches of 14 must divide 100 pixels"):
        ClipConfig(image_px=100)
    with pytest.raises(ValueError, match="expected multiples of the patch's 32"):
        PatchConfig(height_px=100)
