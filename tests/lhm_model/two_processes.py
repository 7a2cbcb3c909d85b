"""One of two processes that train the stand-in side by side: `python two_processes.py RANK PORT FOLDER`.

Each scenario leaves its losses, final weights and checkpoints in FOLDER for the test to compare.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

_spec = importlib.util.spec_from_file_location("lhmforge_test_stand_in_two", Path(__file__).with_name("stand_in.py"))
assert _spec is not None and _spec.loader is not None
stand_in = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = stand_in
_spec.loader.exec_module(stand_in)

from lhmforge.datasets.batch import Batch  # noqa: E402
from lhmforge.datasets.errors import DivergenceError  # noqa: E402
from lhmforge.lhm_model.checkpoint_read import restore_checkpoint  # noqa: E402
from lhmforge.lhm_model.checkpoint_state import state_tensors  # noqa: E402
from lhmforge.lhm_model.parallel import Strategy, TorchGroup, full  # noqa: E402
from lhmforge.lhm_model.train_loop import ObjectiveValue, TrainState  # noqa: E402

Tables = dict[str, dict[str, torch.Tensor]]


def main(rank: int, port: str, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    group = TorchGroup()
    results: Tables = {}
    for strategy in ("ddp", "fsdp"):
        for recompute in (False, True):
            state = stand_in.new_state(1, group=group, strategy=strategy, recompute=recompute, dropout=0.0)
            root = None if recompute else folder / strategy
            recorder = stand_in.Recorder(root, group=group)
            stand_in.run(state, recorder, num_steps=6, batch_size=1, group=group)
            recorder.close()
            results[f"{strategy}{'_recomputed' if recompute else ''}"] = whole(state, recorder)
    # From what one process or the other strategy wrote, and on to the same last step.
    for strategy, source in (("ddp", "fsdp"), ("fsdp", "ddp"), ("fsdp", "alone"), ("fsdp", "fsdp")):
        results[f"{strategy}_after_{source}"] = continued(strategy, folder / source / "step_00000002", group)
    results["divergence"] = divergence(group)
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def whole(state: TrainState, recorder: object) -> dict[str, torch.Tensor]:
    """Every tensor of the state, gathered, and the losses."""
    losses = [values["loss"] for _, values in recorder.logged if "loss" in values]  # type: ignore[attr-defined]
    return {name: full(value).clone() for name, value in state_tensors(state).items()} | {"loss": torch.tensor(losses)}


def continued(strategy: Strategy, checkpoint: Path, group: TorchGroup) -> dict[str, torch.Tensor]:
    state = stand_in.new_state(1, group=group, strategy=strategy, dropout=0.0)
    restore_checkpoint(checkpoint, state, stand_in.ORIGIN, group=group)
    recorder = stand_in.Recorder(group=group)
    stand_in.run(state, recorder, num_steps=6, batch_size=1, group=group)
    return whole(state, recorder)


def divergence(group: TorchGroup) -> dict[str, torch.Tensor]:
    """What this process is told when one pass of the other one's accumulated step is not finite."""
    state = stand_in.new_state(1, group=group, strategy="fsdp", dropout=0.0)

    def poisoned(model: torch.nn.Module, batch: Batch, step: int) -> ObjectiveValue:
        value = stand_in.squared_error(model, batch, step)
        return replace(value, total=value.total * float("nan")) if "s7" in batch.sample_ids else value

    try:
        stand_in.run(state, stand_in.Recorder(group=group), num_steps=6, batch_size=1, group=group, objective=poisoned)
    except DivergenceError as error:
        return {str(error): torch.tensor(state.counters.step)}
    return {}


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
