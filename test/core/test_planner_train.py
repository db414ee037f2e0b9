"""Training the planner: losses, dropout, a toy set it must learn, and the whole command."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import jpeg_bytes
from tiny_vlm import SQUARES_VERSION, write_squares

from clkd_core.cli import main
from clkd_core.data.keyframes import AgentFuture, Keyframe
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.data.prompts import plan_question
from clkd_core.data.sidecar import keyframe_to_json, load_keyframes
from clkd_core.errors import DataError
from clkd_core.models.checkpoint import save_checkpoint
from clkd_core.models.llama_vlm import LanguageConfig, LlamaVlm, LlamaVlmConfig
from clkd_core.models.planner import NO_ACTION, NO_COMMAND, PlannerConfig, build_inputs
from clkd_core.models.planner_checkpoint import load_planner
from clkd_core.models.tokenizer import train_tokenizer
from clkd_core.models.vision.two_scale import TwoScaleConfig
from clkd_core.planner_training.config import (
    DropoutConfig,
    PlannerDataConfig,
    PlannerTrainConfig,
)
from clkd_core.planner_training.evaluate import (
    CONSTANT_VELOCITY,
    NO_META_ACTION,
    TRUE_ACTION,
    score_planner,
)
from clkd_core.planner_training.features import PlannerSet
from clkd_core.planner_training.hazards import touching_shares
from clkd_core.planner_training.losses import planner_loss, soft_target
from clkd_core.planner_training.scoring.plans import plan_set
from clkd_core.planner_training.train import build_planner, drop_inputs, fit_planner
from clkd_core.types import (
    META_ACTIONS,
    EgoState,
    MetaAction,
    PathAction,
    RouteCommand,
    SpeedAction,
    Trajectory,
)

STOP = MetaAction(SpeedAction.STOP, PathAction.STRAIGHT)
KEEP = MetaAction(SpeedAction.KEEP, PathAction.STRAIGHT)
LEFT = MetaAction(SpeedAction.KEEP, PathAction.LEFT_TURN)
QUICK = PlannerTrainConfig(
    model=PlannerConfig(vocabulary_size=24, width=16, heads=2, tokens_per_view=2),
    steps=150,
    batch_size=24,
    lr=1e-2,
)


def drive(speed_mps: float, left_m: float) -> np.ndarray:
    """(T, 2): six points at one speed, bending to the left."""
    time = np.arange(1, 7) / 6
    return np.stack([3 * speed_mps * time, left_m * time**2], axis=1).astype(np.float32)


def toy_set(per_action: int = 12) -> PlannerSet:
    """At 2.3 m/s; only the meta-action says whether it stops, goes on or turns left."""
    rng = np.random.default_rng(0)
    futures, actions = [], []
    for _ in range(per_action):
        for action, speed, left in ((STOP, 1.7, 0.0), (KEEP, 2.9, 0.0), (LEFT, 2.5, 5.0)):
            xy_m = drive(speed + rng.uniform(-0.2, 0.2), left)
            assert meta_action_from_future(lidar_from_ego(xy_m)) == action
            futures.append(xy_m)
            actions.append(action)
    count = len(futures)
    return PlannerSet(
        inputs=build_inputs(
            torch.randn(count, 6, 4, 8, generator=torch.Generator().manual_seed(1)),
            torch.ones(count, 6, dtype=torch.bool),
            [EgoState(stamp_ns=0, speed_mps=2.3)] * count,
            [RouteCommand.STRAIGHT] * count,
            actions,
        ),
        truth_m=torch.from_numpy(np.stack(futures)),
        scenes=tuple(f"scene-{i % 4}" for i in range(count)),
        is_corner=(False,) * count,
    )


def test_soft_target_agrees_with_loops_and_sums_to_one() -> None:
    truth, vocabulary = torch.randn(3, 6, 2), torch.randn(5, 6, 2)
    target = soft_target(truth, vocabulary, tau_m2=0.7)
    for row in range(3):
        weights = [
            math.exp(-sum((truth[row] - v).square().sum(-1).tolist()) / 6 / 0.7)
            for v in vocabulary
        ]
        wanted = [weight / sum(weights) for weight in weights]
        assert target[row].tolist() == pytest.approx(wanted, rel=1e-4)
        assert float(target[row].sum()) == pytest.approx(1)


def test_soft_target_becomes_the_nearest_trajectory_when_tau_goes_to_zero() -> None:
    truth, vocabulary = torch.randn(4, 6, 2) * 30, torch.randn(9, 6, 2) * 30
    nearest = (truth[:, None] - vocabulary).square().sum((-1, -2)).argmin(dim=-1)
    target = soft_target(truth, vocabulary, tau_m2=1e-9)
    torch.testing.assert_close(target, torch.eye(9)[nearest])


def test_soft_target_stays_finite_far_from_the_whole_vocabulary() -> None:
    target = soft_target(torch.full((1, 6, 2), 1e4), torch.randn(3, 6, 2), tau_m2=0.01)
    assert float(target.sum()) == pytest.approx(1)


@pytest.mark.parametrize("tau_m2", [0.0, -1.0, math.nan])
def test_a_tau_that_is_not_positive_is_refused(tau_m2: float) -> None:
    with pytest.raises(ValueError, match="tau_m2 is"):
        soft_target(torch.zeros(1, 6, 2), torch.zeros(1, 6, 2), tau_m2=tau_m2)


def test_dropout_withholds_about_its_share_and_nothing_at_zero() -> None:
    inputs = toy_set(per_action=500).inputs
    none = DropoutConfig(action_frac=0, ego_frac=0, command_frac=0, view_frac=0)
    kept = drop_inputs(inputs, none, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(kept, inputs, strict=True))
    shares = DropoutConfig(action_frac=0.3, ego_frac=0.1, command_frac=0.2, view_frac=0.05)
    dropped = drop_inputs(inputs, shares, torch.Generator().manual_seed(0))
    assert float((dropped.action == NO_ACTION).float().mean()) == pytest.approx(0.3, abs=0.04)
    assert float((~dropped.has_ego).float().mean()) == pytest.approx(0.1, abs=0.03)
    assert float((dropped.command == NO_COMMAND).float().mean()) == pytest.approx(0.2, abs=0.04)
    assert float((~dropped.present).float().mean()) == pytest.approx(0.05, abs=0.02)


def test_the_commanded_action_decides_the_plan_on_a_toy_set() -> None:
    data = toy_set()
    planner, records = fit_planner(QUICK, data, device=torch.device("cpu"))
    assert records[-1]["loss"] < records[0]["loss"]
    for action, reach_m, left_m in ((STOP, 5.1, 0.0), (KEEP, 8.7, 0.0), (LEFT, 7.5, 5.0)):
        commanded = data.inputs._replace(action=torch.full_like(data.inputs.action, action.index))
        last = plan_set(planner, commanded)[:, -1].mean(dim=0)
        assert last.tolist() == pytest.approx([reach_m, left_m], abs=0.5), action.text


def test_scores_tell_the_ways_to_plan_apart() -> None:
    data = toy_set()
    planner, _ = fit_planner(QUICK, data, device=torch.device("cpu"))
    scores = score_planner(planner, data).l2
    assert scores[TRUE_ACTION].horizon_m[3].value < 0.6
    assert scores[NO_META_ACTION].horizon_m[3].value > 2 * scores[TRUE_ACTION].horizon_m[3].value
    # 6.9 m straight ahead where 5.1 m, 8.7 m, and 7.5 m with 5 m to the side were driven.
    wanted = pytest.approx((1.8 + 1.8 + 5.04) / 3, abs=0.3)
    assert scores[CONSTANT_VELOCITY].horizon_m[3].value == wanted


def test_training_twice_gives_the_same_planner() -> None:
    config = replace(QUICK, steps=12)
    one, _ = fit_planner(config, toy_set(), device=torch.device("cpu"))
    torch.rand(7)  # what others draw from the global generator must not matter
    two, _ = fit_planner(config, toy_set(), device=torch.device("cpu"))
    other, _ = fit_planner(replace(config, seed=1), toy_set(), device=torch.device("cpu"))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name]), name
    assert not torch.equal(one.score.weight, other.score.weight)


def test_the_vocabulary_holds_only_what_the_vehicle_can_drive() -> None:
    data = toy_set()
    wild = data.truth_m.clone()
    wild[::4, 3:] += 40.0
    planner = build_planner(QUICK, replace(data, truth_m=wild))
    assert (planner.low_mps <= planner.high_mps).all()
    plain = build_planner(replace(QUICK, complete_vocabulary=False), replace(data, truth_m=wild))
    assert len(plain.vocabulary_m) == 24 < len(planner.vocabulary_m)


def test_futures_that_the_vehicle_cannot_drive_at_all_are_refused() -> None:
    data = toy_set()
    with pytest.raises(DataError, match="Renault Zoe can drive none of 36 training futures"):
        build_planner(QUICK, replace(data, truth_m=data.truth_m * 30))


def car_at(x_m: float) -> AgentFuture:
    return AgentFuture(
        category="vehicle.car", size_m=(4.0, 2.0),
        poses=np.tile(np.array([[x_m, 0.0, 0.0]], np.float32), (7, 1)),
    )  # fmt: skip


def test_collisions_that_are_punished_become_improbable() -> None:
    # Who keeps on (8.7 m) runs into the car at 13 m, who stops after 5.1 m does not; what was
    # driven does not count here, so the penalty alone moves the choice.
    data = toy_set()
    planner = build_planner(QUICK, data)
    touching = torch.from_numpy(
        touching_shares(planner.vocabulary_m.numpy(), [(car_at(13.0),)], np.zeros((1, 6, 2)))
    )
    assert 0 < int((touching > 0).sum()) < len(planner.vocabulary_m)
    inputs = type(data.inputs)(*(tensor[:1] for tensor in data.inputs))
    chosen = {}
    for weight in (0.0, 5.0):
        output = planner(inputs)
        loss = planner_loss(
            planner, inputs, output, data.truth_m[:1], tau_m2=0.5, refine_weight=0.0,
            penalty=weight * touching,
        )  # fmt: skip
        prob = output.log_prob.exp()
        assert float(loss.hazard.detach()) == pytest.approx(
            weight * float((prob * touching).sum().detach())
        )
        torch.testing.assert_close(loss.total, loss.plan + loss.hazard)
        (gradient,) = torch.autograd.grad(loss.total, output.log_prob)
        chosen[weight] = float(gradient[0, touching[0].argmax()])
    assert chosen[5.0] > chosen[0.0]


def test_collisions_cannot_count_where_nobody_says_who_is_there() -> None:
    with pytest.raises(DataError, match="collision_weight is not 0"):
        fit_planner(replace(QUICK, collision_weight=1.0, steps=1), toy_set(), device="cpu")


def write_student(folder: Path) -> None:
    """A real student, as small as it gets, with random weights."""
    texts = [plan_question(None, None), *(action.text for action in META_ACTIONS)]
    config = LlamaVlmConfig(
        vision=TwoScaleConfig(
            height_px=32, width_px=64, stem_width=8, channels=(8, 8, 8, 8), blocks=(1, 1, 1, 1)
        ),
        tokens_per_view=1,
        language=LanguageConfig(hidden_size=16, layers=1, heads=2, ffn_size=16),
    )
    torch.manual_seed(0)
    save_checkpoint(folder, LlamaVlm(config, train_tokenizer(texts, vocab_size=400)))


def write_world(root: Path, version: str = "v1.0-clkd", frames: int = 10) -> None:
    """A sidecar with one front and one back image for all; every third keyframe stops."""
    (root / version).mkdir(parents=True)
    images = {"CAM_FRONT": root / "front.jpg", "CAM_BACK": root / "back.jpg"}
    for image in images.values():
        image.write_bytes(jpeg_bytes())
    lines = []
    for split in ("train", "val"):
        for i in range(frames):
            xy_m = drive(0.2 if i % 3 == 0 else 6.0 + 0.1 * i, 0.0)
            keyframe = Keyframe(
                sample_token=f"{split}{i}", scene=f"{split}-{i % 2}", case_name="regular",
                stamp_ns=i, image_paths=images, image_stamps_ns=dict.fromkeys(images, i),
                ego=EgoState(stamp_ns=i, speed_mps=6.0), command=RouteCommand.STRAIGHT,
                future=Trajectory(xy_m=xy_m),
                action=meta_action_from_future(lidar_from_ego(xy_m)), agents=(), questions=(),
            )  # fmt: skip
            lines.append(json.dumps(keyframe_to_json(keyframe, split=split, root=root)))
    (root / version / "clkd_keyframes.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student and a world."""
    folder = tmp_path_factory.mktemp("planner")
    write_student(folder / "student")
    write_world(folder / "world")
    return folder


def words(place: Path, *more: str) -> list[str]:
    tiny = Path(__file__).parents[2] / "config" / "planner" / "tiny.yaml"
    return [
        "train-planner", str(tiny), f"student={place / 'student'}",
        f"data.root={place / 'world'}", "threads=1", *more,
    ]  # fmt: skip


def test_the_command_leaves_a_planner_that_loads(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(place)) == 0
    folder = place / "student" / "planner"
    out = capsys.readouterr().out
    assert "constant velocity" in out and out.endswith(f"planner: {folder}\n")
    read = load_planner(place / "student")
    assert len(read.vocabulary_m) > 7  # seven were driven, the rest is what nobody drove
    assert (read.low_mps <= read.high_mps).all()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [10, 20, None]
    assert {"config.yaml", "curves.png", "manifest.json"} <= {p.name for p in folder.iterdir()}


def test_a_planner_that_is_there_is_judged_without_being_touched(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(place)) == 0
    trained = capsys.readouterr().out
    manifest = place / "student" / "planner" / "manifest.json"
    before = manifest.stat()
    verb, *rest = words(place)
    assert main([verb, "--evaluate-only", *rest]) == 0
    assert capsys.readouterr().out == trained
    assert (manifest.stat().st_mtime_ns, manifest.stat().st_ino) == (
        before.st_mtime_ns,
        before.st_ino,
    )
    lame = [*rest, "vehicle.name=lorry", "vehicle.max_accel_mps2=1.0"]
    assert main([verb, "--evaluate-only", *lame]) == 2
    err = capsys.readouterr().err
    assert (
        "made for another vehicle than lorry: it is a Renault Zoe, max_accel_mps2 3.6 > 1" in err
    )


def test_an_interrupted_run_leaves_the_old_planner_and_nothing_else(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words(place)) == 0
    before = (place / "student" / "planner" / "manifest.json").read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clkd_core.planner_training.train.planner_loss", interrupt)
    assert main(words(place)) == 130
    assert (place / "student" / "planner" / "manifest.json").read_bytes() == before
    assert [p.name for p in (place / "student").iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("student=nowhere", "nowhere holds no student"),
        ("data.root=nowhere", "nowhere/v1.0-clkd/clkd_keyframes.jsonl: no such file"),
        ("model.widht=8", "unknown key 'model.widht', did you mean 'model.width'?"),
        ("tau_m2=0", "tau_m2 is 0.0, expected > 0"),
        ("dropout.action_frac=1.0", "action_frac is 1.0"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], more: str, named: str
) -> None:
    assert main(words(place, more)) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("clkd: error: ") and named in err


def test_a_broken_training_image_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_student(tmp_path / "student")
    write_world(tmp_path / "world")
    (tmp_path / "world" / "back.jpg").write_bytes(b"no image")
    assert main(words(tmp_path)) == 2
    err = capsys.readouterr().err
    assert "keyframe train0 of train-0: " in err and "CAM_BACK: 8 bytes" in err


def test_at_most_max_keyframes_are_learnt_from_and_none_of_them_unlabelled(tmp_path: Path) -> None:
    from clkd_core.planner_training.train import _thinned

    write_squares(tmp_path, train=10, val=1)
    labelled = list(load_keyframes(tmp_path, SQUARES_VERSION, "train"))
    twins = [replace(keyframe, action=None, future=None) for keyframe in labelled]
    mixed = [one for pair in zip(labelled, twins, strict=True) for one in pair]
    picked = [id(keyframe) for keyframe in _thinned(mixed, 4)]
    assert picked == [id(labelled[place]) for place in (0, 3, 6, 9)]
    assert _thinned(mixed, 10) is mixed
    with pytest.raises(ValueError, match="max_keyframes is 0"):
        PlannerDataConfig(max_keyframes=0)
