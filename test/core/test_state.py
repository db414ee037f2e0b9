import json
from pathlib import Path

import pytest
import torch
from torch import nn

from clkd_core.distill.state import (
    OPTIMIZER,
    Progress,
    changed_keys,
    check_same_config,
    discard_leftovers,
    find_state,
    forget_states,
    optimizer_tensors,
    restore_optimizer,
    save_state,
)
from clkd_core.errors import CheckpointError, ConfigError


def save(folder: Path, stage: str, step: int, *, keep: int = 9) -> Path:
    save_state(folder, {"w": torch.ones(2)}, {}, Progress(stage, step, {"a": 1}), keep=keep)
    return folder / f"{stage}-{step:07d}"


def test_newest_state_counts_whatever_the_order_of_names(tmp_path: Path) -> None:
    for stage, step in (("teacher", 40), ("distill", 0), ("teacher", 5), ("distill", 10)):
        save(tmp_path, stage, step)
    found = find_state(tmp_path)
    assert found is not None
    assert (found[0].name, found[1].stage, found[1].step) == ("distill-0000010", "distill", 10)
    save(tmp_path, "done", 0)
    assert find_state(tmp_path)[1].stage == "done"  # type: ignore[index]


def test_no_state_is_none_and_not_an_error(tmp_path: Path) -> None:
    assert find_state(tmp_path / "nothing") is None
    (tmp_path / ".teacher-0000001.part-1-x").mkdir()
    assert find_state(tmp_path) is None


@pytest.mark.parametrize("keep", [1, 2])
def test_as_many_old_states_stay_as_the_config_says(tmp_path: Path, keep: int) -> None:
    for step in (2, 4, 6):
        save(tmp_path, "teacher", step, keep=keep)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["teacher-0000002", "teacher-0000004", "teacher-0000006"][-keep:]


def test_damaged_state_is_passed_over_for_an_older_whole_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, "teacher", 2)
    newest = save(tmp_path, "teacher", 4)
    (newest / "model.safetensors").write_bytes(b"cut")
    found = find_state(tmp_path)
    assert found is not None and found[1].step == 2
    assert "teacher-0000004 is passed over" in caplog.text
    (tmp_path / "teacher-0000002" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        find_state(tmp_path)


def test_what_a_kill_left_half_written_or_half_removed_is_discarded(tmp_path: Path) -> None:
    whole = save(tmp_path, "teacher", 2)
    (tmp_path / ".teacher-0000004.part-123-abc").mkdir()
    half = save(tmp_path, "teacher", 1)
    (half / "manifest.json").unlink()
    discard_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [whole]
    discard_leftovers(tmp_path / "nothing")


def test_state_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    place = save(tmp_path, "distill", 0)
    before = (place / "manifest.json").stat().st_ino
    save(tmp_path, "distill", 0)
    assert (place / "manifest.json").stat().st_ino == before


def test_forgotten_states_are_gone_at_once(tmp_path: Path) -> None:
    save(tmp_path / "state", "teacher", 2)
    forget_states(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []
    forget_states(tmp_path / "state")


def test_optimizer_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def model_after(steps: int, *, cut_at: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for step in range(steps):
            if step == cut_at:
                moments = optimizer_tensors(optimizer)
                save_state(tmp_path, {}, moments, Progress("teacher", step, {}), keep=1)
                optimizer = torch.optim.AdamW(model.parameters(), fused=True)
                restore_optimizer(find_state(tmp_path)[0], optimizer)  # type: ignore[index]
            optimizer.zero_grad()
            model(torch.full((1, 3), float(step))).square().sum().backward()
            optimizer.step()
        return model.weight.detach()

    assert torch.equal(model_after(6, cut_at=3), model_after(6, cut_at=None))


def test_damaged_optimizer_is_named(tmp_path: Path) -> None:
    place = save(tmp_path, "teacher", 2)
    (place / OPTIMIZER).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors cannot be read"):
        restore_optimizer(place, torch.optim.AdamW([torch.zeros(1, requires_grad=True)]))


def test_another_config_is_refused_with_the_dotted_keys(tmp_path: Path) -> None:
    ours = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert changed_keys(ours, json.loads(json.dumps(ours))) == []
    assert changed_keys(ours, {"a": {"b": 2, "c": 2}, "e": 0}) == ["a.b", "d", "e"]
    with pytest.raises(ConfigError, match=r"other values of a\.b; resume with"):
        check_same_config(tmp_path, ours, {"a": {"b": 2, "c": 2}, "d": [1]})
