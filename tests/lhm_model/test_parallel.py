"""Two processes: FSDP2 computes what DDP and one process compute; checkpoints pass between all of them."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lhmforge.lhm_model.checkpoint import published_checkpoints
from lhmforge.lhm_model.checkpoint_read import restore_checkpoint
from lhmforge.lhm_model.checkpoint_state import state_tensors

_spec = importlib.util.spec_from_file_location("lhmforge_test_stand_in_one", Path(__file__).with_name("stand_in.py"))
assert _spec is not None and _spec.loader is not None
stand_in = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = stand_in
_spec.loader.exec_module(stand_in)

Table = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Table, dict[str, Table]]]:
    """The folder with checkpoints, what one process ends with, and what two processes end with in each scenario."""
    folder = tmp_path_factory.mktemp("two")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    state, recorder = stand_in.new_state(4, dropout=0.0), stand_in.Recorder(folder / "alone")
    stand_in.run(state, recorder, num_steps=6, batch_size=4)
    recorder.close()
    alone = _tables(state, recorder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = Path(__file__).with_name("two_processes.py")
    pair = [subprocess.Popen([sys.executable, script, str(rank), port, str(folder)]) for rank in range(2)]
    try:
        assert [process.wait(120) for process in pair] == [0, 0]
    finally:
        for process in pair:
            process.kill()
    ranks = [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]
    assert ranks[0].keys() == ranks[1].keys()
    for name in ranks[0]:
        assert ranks[0][name].keys() == ranks[1][name].keys(), name
        for key, value in ranks[0][name].items():
            assert torch.equal(value, ranks[1][name][key]), f"ranks differ in {name}: {key}"
    yield folder, alone, ranks[0]
    torch.set_num_threads(threads)


def _tables(state: object, recorder: object) -> Table:
    losses = [values["loss"] for _, values in recorder.logged if "loss" in values]  # type: ignore[attr-defined]
    return {name: value.clone() for name, value in state_tensors(state).items()} | {"loss": torch.tensor(losses)}


def _assert_close(left: Table, right: Table, *, last: int = 6) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        other = right[name][-last:] if name == "loss" else right[name]
        torch.testing.assert_close(value, other, rtol=2e-5, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("scenario", ["ddp", "fsdp", "ddp_recomputed", "fsdp_recomputed"])
def test_two_processes_train_like_one(trained: tuple[Path, Table, dict[str, Table]], scenario: str) -> None:
    """Accumulation, clipping, averages and evaluation between steps included; gradients are clipped in every step."""
    _, alone, together = trained
    _assert_close(together[scenario], alone)


@pytest.mark.parametrize("scenario", ["ddp_after_fsdp", "fsdp_after_ddp", "fsdp_after_alone"])
def test_runs_go_on_from_another_strategy_or_world_size(
    trained: tuple[Path, Table, dict[str, Table]], scenario: str
) -> None:
    _, alone, together = trained
    assert len(together[scenario]["loss"]) == 4
    _assert_close(together[scenario], alone, last=4)


def test_going_on_alike_is_exact(trained: tuple[Path, Table, dict[str, Table]]) -> None:
    _, _, together = trained
    for name, value in together["fsdp_after_fsdp"].items():
        other = together["fsdp"][name]
        assert torch.equal(value, other[-4:] if name == "loss" else other), name


@pytest.mark.parametrize("source", ["ddp", "fsdp"])
def test_one_process_goes_on_where_two_stopped(trained: tuple[Path, Table, dict[str, Table]], source: str) -> None:
    folder, alone, _ = trained
    assert len(published_checkpoints(folder / source)) == 3
    state, recorder = stand_in.new_state(4, dropout=0.0), stand_in.Recorder()
    checkpoint = folder / source / "step_00000002"
    assert sorted(path.name for path in checkpoint.glob("*.distcp")) == ["__0_0.distcp", "__1_0.distcp"]
    restore_checkpoint(checkpoint, state, stand_in.ORIGIN)
    assert state.batches.consumed == 2, "8 samples are 2 batches of 4 now"
    stand_in.run(state, recorder, num_steps=6, batch_size=4)
    _assert_close(_tables(state, recorder), alone, last=4)


def test_all_processes_stop_with_the_same_words(trained: tuple[Path, Table, dict[str, Table]]) -> None:
    """Sample s7 is in the second pass of the second process, in the second step."""
    _, _, together = trained
    ((message, step),) = together["divergence"].items()
    assert int(step) == 1 and "step 1: the loss is not finite; samples: s7." in message
