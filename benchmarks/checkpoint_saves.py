"""How long training waits for a checkpoint: asynchronous saves of a whole training state, against the plain way.

Run: python benchmarks/checkpoint_saves.py --preset 0.5b --workers 2 --strategy fsdp --folder DIR --json FILE

The state is a model of the preset (random weights; the frozen body encoder is no part of it) with AdamW moments and
averaged weights. Between saves the optimiser steps on random gradients, so that a save competes with something.
Prints, per save: seconds the loop was blocked, seconds until the checkpoint was published, bytes; then step times while
writing and while not, and the seconds that `torch.save` of the same state takes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lhmforge.datasets.batch import Batch
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.resolve import body_path
from lhmforge.lhm_model.checkpoint import CheckpointOrigin, Retention, latest_checkpoint
from lhmforge.lhm_model.checkpoint_state import state_tensors
from lhmforge.lhm_model.checkpoint_write import CheckpointWriter
from lhmforge.lhm_model.config import ModelConfig, preset
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.optim import AveragedWeights, OptimConfig, build_optimizer
from lhmforge.lhm_model.parallel import ProcessGroup, SingleProcess, TorchGroup, spread
from lhmforge.lhm_model.train_loop import Counters, TrainState

_NUM_SAVES, _IDLE_STEPS = 3, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="0.5b")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--strategy", choices=["ddp", "fsdp"], default="ddp")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are written; removed afterwards")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if args.workers == 1:
        _worker(0, args, port)
    else:
        mp.spawn(_worker, (args, port), nprocs=args.workers)


def _worker(rank: int, args: argparse.Namespace, port: int) -> None:
    device = torch.device(args.device, rank) if args.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group: ProcessGroup = SingleProcess()
    if args.workers > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(args.workers))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        group = TorchGroup()
    try:
        result = _measure(args, group, device)
    finally:
        if args.workers > 1:
            dist.destroy_process_group()
    if rank == 0:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result), flush=True)


def _measure(args: argparse.Namespace, group: ProcessGroup, device: torch.device) -> dict[str, object]:
    state = _new_state(preset(args.preset), args.strategy, group, device)
    shutil.rmtree(args.folder, ignore_errors=True) if group.rank == 0 else None
    origin = CheckpointOrigin(seed=0, world_size=group.world_size, body_digest="", model_config={}, run_config={})
    writer = CheckpointWriter(args.folder, origin, group=group, retention=Retention(keep_last=1))
    idle = [_step(state, device) for _ in range(_IDLE_STEPS)]
    rows, busy = [], []
    for number in range(1, _NUM_SAVES + 1):
        state.counters = Counters(step=number)
        group.barrier()
        started = time.perf_counter()
        writer.save(state, {})
        blocked = time.perf_counter() - started
        meanwhile = []
        while not writer.idle and len(meanwhile) < 20_000:
            meanwhile.append(_step(state, device))
        writer.wait()
        rows.append({"blocked_s": round(blocked, 4), "published_after_s": round(time.perf_counter() - started, 3)})
        busy += meanwhile
        group.barrier()
    newest = latest_checkpoint(args.folder)
    assert newest is not None
    size = sum(path.stat().st_size for path in newest.iterdir())
    writer.close()
    group.barrier()
    plain = _plain_save_seconds(state, args.folder) if group.world_size == 1 else None
    group.barrier()
    if group.rank == 0:
        shutil.rmtree(args.folder)
    return {
        "saves": rows,
        "checkpoint_bytes": size,
        "step_ms_idle": round(statistics.median(idle) * 1e3, 3),
        "step_ms_while_writing": round(statistics.median(busy) * 1e3, 3) if busy else None,
        "torch_save_s": plain,
    }


def _step(state: TrainState, device: torch.device) -> float:
    """One optimiser step on the gradients at hand."""
    started = time.perf_counter()
    state.optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _plain_save_seconds(state: TrainState, folder: Path) -> float:
    """What the loop would wait for without asynchronous saves."""
    started = time.perf_counter()
    path = folder / "plain.pt"
    with path.open("wb") as file:
        torch.save(state_tensors(state), file)
        os.fsync(file.fileno())
    return round(time.perf_counter() - started, 3)


class _NoBatches:
    """A data stream at its beginning."""

    def __iter__(self) -> Iterator[Batch]:
        return iter(())

    def state_dict(self) -> dict[str, int | str]:
        return {"position": 0}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        return None


def _new_state(config: ModelConfig, strategy: str, group: ProcessGroup, device: torch.device) -> TrainState:
    if config.body_encoder.frozen:  # not saved, hence not built
        config = replace(config, body_encoder=replace(config.body_encoder, kind="vit", weights="", depth=0))
    bare = LHM(config, BodyModel.load(body_path(None))).to(device)
    model = spread(bare, strategy="fsdp" if strategy == "fsdp" else "ddp", group=group, device=device)
    optimizer = build_optimizer(model, OptimConfig(learning_rate=1e-6))
    for parameter in bare.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return TrainState(model=model, optimizer=optimizer, batches=_NoBatches(), average=AveragedWeights(bare, 0.999))


if __name__ == "__main__":
    main()
