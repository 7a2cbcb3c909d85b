"""Checkpoints: publication, verification, retention and clear errors."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lhmforge.datasets.errors import CheckpointError
from lhmforge.lhm_model.checkpoint import (
    Retention,
    latest_checkpoint,
    published_checkpoints,
    resolve_checkpoint,
    verify_checkpoint,
)
from lhmforge.lhm_model.checkpoint_files import read_table
from lhmforge.lhm_model.checkpoint_read import restore_checkpoint
from lhmforge.lhm_model.checkpoint_write import CheckpointWriter
from lhmforge.lhm_model.parallel import SingleProcess

_spec = importlib.util.spec_from_file_location("lhmforge_test_stand_in_ckpt", Path(__file__).with_name("stand_in.py"))
assert _spec is not None and _spec.loader is not None
stand_in = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = stand_in
_spec.loader.exec_module(stand_in)


def _save(root: Path, step: int, score: float | None = None, *, keep_last: int = 2, keep_every: int = 0) -> Path:
    state = stand_in.new_state()
    state.counters.step = step
    scores = {} if score is None else {"psnr": score}
    retention = Retention(keep_last=keep_last, keep_every=keep_every)
    writer = CheckpointWriter(root, stand_in.ORIGIN, group=SingleProcess(), retention=retention)
    writer.save(state, scores)
    writer.close()
    return root / f"step_{step:08d}"


def test_last_two_and_the_best_stay(tmp_path: Path) -> None:
    for step, score in ((1, 5.0), (2, 9.0), (3, 7.0), (4, 6.0), (5, None)):
        _save(tmp_path, step, score)
    assert [path.name for path in published_checkpoints(tmp_path)] == [
        "step_00000002",
        "step_00000004",
        "step_00000005",
    ]
    assert not list(tmp_path.glob(".*"))


def test_every_nth_stays_too(tmp_path: Path) -> None:
    for step in range(1, 8):
        _save(tmp_path, step, keep_last=1, keep_every=3)
    assert [path.name[-1] for path in published_checkpoints(tmp_path)] == ["3", "6", "7"]


def test_killed_at_any_moment_the_newest_checkpoint_is_whole(tmp_path: Path) -> None:
    """Processes that save without pause are killed after random times; every time what is visible can be loaded."""
    seen = 0
    for extra_seconds in np.random.default_rng(0).uniform(0.0, 0.06, 6):
        child = os.fork()
        if child == 0:
            _save_until_killed(tmp_path)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and _newest_step(tmp_path) <= seen:
            time.sleep(0.002)
        time.sleep(extra_seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for path in published_checkpoints(tmp_path):
            verify_checkpoint(path)
        newest = latest_checkpoint(tmp_path)
        assert newest is not None and _newest_step(tmp_path) > seen, "a published checkpoint was lost"
        restore_checkpoint(newest, stand_in.new_state(), stand_in.ORIGIN)
        seen = _newest_step(tmp_path)


def _newest_step(root: Path) -> int:
    """0 where nothing is published."""
    newest = latest_checkpoint(root)
    return 0 if newest is None else int(newest.name.removeprefix("step_"))


def _save_until_killed(root: Path) -> None:
    newest = latest_checkpoint(root)
    state = stand_in.new_state()
    if newest is not None:
        restore_checkpoint(newest, state, stand_in.ORIGIN)
    writer = CheckpointWriter(root, stand_in.ORIGIN, group=SingleProcess(), retention=Retention(keep_last=1))
    while True:
        state.counters.step += 1
        writer.save(state, {})


def test_the_state_may_change_while_it_is_written(tmp_path: Path) -> None:
    state = stand_in.new_state()
    before = {name: value.clone() for name, value in state.bare_model.state_dict().items()}
    writer = CheckpointWriter(tmp_path, stand_in.ORIGIN, group=SingleProcess(), retention=Retention())
    writer.save(state, {})
    with torch.no_grad():
        for parameter in state.bare_model.parameters():
            parameter.zero_()
    writer.close()
    restored = stand_in.new_state()
    restore_checkpoint(tmp_path / "step_00000000", restored, stand_in.ORIGIN)
    assert all(torch.equal(value, before[name]) for name, value in restored.bare_model.state_dict().items())


def test_a_save_that_failed_is_told_by_the_next_one(tmp_path: Path) -> None:
    state = stand_in.new_state()
    writer = CheckpointWriter(tmp_path, stand_in.ORIGIN, group=SingleProcess(), retention=Retention())
    (tmp_path / ".partial_step_00000000").write_text("in the way")
    writer.save(state, {})
    with pytest.raises(CheckpointError, match=r"step_00000000: could not be written"):
        writer.wait()
    assert latest_checkpoint(tmp_path) is None


def test_metadata_may_name_no_other_class(tmp_path: Path) -> None:
    path = _save(tmp_path, 1)
    (path / ".metadata").write_bytes(pickle.dumps(subprocess.Popen))
    with pytest.raises(CheckpointError, match=r"subprocess\.Popen"):
        read_table(path)


def test_an_unfinished_folder_is_invisible_and_cleared(tmp_path: Path) -> None:
    partial = tmp_path / ".partial_step_00000009"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) is None
    _save(tmp_path, 1)
    assert not partial.exists()


def test_publishing_a_step_twice_replaces_it(tmp_path: Path) -> None:
    _save(tmp_path, 3, 1.0)
    assert verify_checkpoint(_save(tmp_path, 3, 2.0)).scores == {"psnr": 2.0}
    assert len(published_checkpoints(tmp_path)) == 1


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    path = _save(tmp_path, 1)
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        restore_checkpoint(path, stand_in.new_state(), stand_in.ORIGIN)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = _save(tmp_path, 1)
    (path / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp: missing"):
        verify_checkpoint(path)


def test_a_checkpoint_describes_itself(tmp_path: Path) -> None:
    path = _save(tmp_path, 1)
    table = read_table(path)
    assert table["model/first.weight"].size == torch.Size((8, 48))
    json.loads((path / "checkpoint.json").read_text())


@pytest.mark.parametrize("change", [{"body_digest": "other"}, {"seed": 4}, {"model_config": {"width": 9}}])
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = _save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=next(iter(change))):
        restore_checkpoint(path, stand_in.new_state(), replace(stand_in.ORIGIN, **change))


def test_run_folder_resolves_to_its_newest_checkpoint(tmp_path: Path) -> None:
    saved = _save(tmp_path / "checkpoints", 1)
    assert (
        resolve_checkpoint(tmp_path)
        == resolve_checkpoint(tmp_path / "checkpoints")
        == resolve_checkpoint(saved)
        == saved
    )
    with pytest.raises(CheckpointError, match="no checkpoint"):
        resolve_checkpoint(tmp_path / "nothing")
