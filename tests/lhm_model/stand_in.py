"""A small model, data stream and reporter with the interfaces of the real ones, for tests of the training loop.

Run as a program it trains until a step at which it kills itself: `python stand_in.py ROOT DIE_AT`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lhmforge.datasets.batch import Batch, BodyBatch
from lhmforge.lhm_model.checkpoint import CheckpointOrigin, Retention, latest_checkpoint
from lhmforge.lhm_model.checkpoint_read import restore_checkpoint
from lhmforge.lhm_model.checkpoint_write import CheckpointWriter
from lhmforge.lhm_model.optim import AveragedWeights, OptimConfig, build_optimizer
from lhmforge.lhm_model.parallel import ProcessGroup, SingleProcess, Strategy, spread
from lhmforge.lhm_model.train_loop import LoopConfig, Objective, ObjectiveValue, TrainState, train_loop

OPTIM = OptimConfig(learning_rate=1e-2, warmup_steps=2, grad_clip=1.0, ema_decay=0.9)
ORIGIN = CheckpointOrigin(seed=3, world_size=1, body_digest="none", model_config={"width": 8}, run_config={})


def make_batch(first_id: int, size: int, *, generator: torch.Generator) -> Batch:
    """Random 4 x 4 images with one view each."""

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    body = BodyBatch(
        betas=draw(size, 10),
        expression=draw(size, 1, 10),
        global_orient=draw(size, 1, 3),
        body_pose=draw(size, 1, 21, 3),
        jaw_pose=draw(size, 1, 3),
        leye_pose=draw(size, 1, 3),
        reye_pose=draw(size, 1, 3),
        left_hand_pose=draw(size, 1, 15, 3),
        right_hand_pose=draw(size, 1, 15, 3),
        transl=draw(size, 1, 3),
    )
    return Batch(
        sample_ids=tuple(f"s{first_id + i}" for i in range(size)),
        source_image=draw(size, 3, 4, 4),
        source_alpha=draw(size, 1, 4, 4),
        head_image=draw(size, 3, 4, 4),
        head_valid=torch.ones(size, dtype=torch.bool),
        target_image=draw(size, 1, 3, 4, 4),
        target_alpha=draw(size, 1, 1, 4, 4),
        target_head_box=torch.zeros(size, 1, 4),
        background=torch.ones(size, 1, 3),
        intrinsics=torch.eye(3).repeat(size, 1, 1, 1),
        world_to_camera=torch.eye(4).repeat(size, 1, 1, 1),
        body=body,
    )


class CountingBatches:
    """Batch number n is a function of n alone; the position is the number of batches handed out."""

    def __init__(self, batch_size: int = 2, *, rank: int = 0, world_size: int = 1) -> None:
        self._size, self._rank, self._world_size = batch_size, rank, world_size
        self.consumed = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            first = (self.consumed * self._world_size + self._rank) * self._size
            # One generator per sample: the same sample looks the same whatever batch it arrives in.
            singles = [
                make_batch(first + i, 1, generator=torch.Generator().manual_seed(first + i)) for i in range(self._size)
            ]
            self.consumed += 1
            yield concatenate(singles)

    def state_dict(self) -> dict[str, int | str]:
        return {"samples": self.consumed * self._size * self._world_size}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        samples = state["samples"]
        assert isinstance(samples, int)
        self.consumed = samples // (self._size * self._world_size)


def concatenate(batches: list[Batch]) -> Batch:
    """One batch with the samples of all; bodies are taken from the first since no stand-in reads them."""
    names = [n for n in Batch.__slots__ if n not in ("sample_ids", "body")]
    tensors = {name: torch.cat([getattr(b, name) for b in batches]) for name in names}
    return Batch(sample_ids=tuple(i for b in batches for i in b.sample_ids), body=batches[0].body, **tensors)


class Block(nn.Module):
    """One repeated block, as strategies shard them."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(dropout)
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.drop(self.norm(x)))


class StandIn(nn.Module):
    """Predicts the target image from the source through dropout, so that random numbers matter."""

    def __init__(self, dropout: float = 0.2, *, recompute: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(48, 8)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(2))
        self.second = nn.Linear(8, 48)
        self.recompute = recompute
        self.step = -1

    def set_step(self, step: int) -> None:
        self.step = step

    def forward(self, batch: Batch) -> Tensor:
        hidden = self.first(batch.source_image.flatten(1))
        for block in self.blocks:
            hidden = checkpoint(block, hidden, use_reentrant=False) if self.recompute else block(hidden)
        result: Tensor = self.second(hidden)
        return result


def squared_error(model: nn.Module, batch: Batch, step: int) -> ObjectiveValue:
    """Mean squared error against the first target view."""
    loss = (model(batch) - batch.target_image[:, 0].flatten(1)).square().mean()
    return ObjectiveValue(total=loss, parts={"mse": loss.detach()})


class Recorder:
    """Keeps what the loop reports; saves checkpoints below `root` and dies after step `die_at`."""

    def __init__(
        self,
        root: Path | None = None,
        *,
        die_at: int | None = None,
        keep_last: int = 9,
        group: ProcessGroup | None = None,
    ) -> None:
        self.die_at = die_at
        retention = Retention(keep_last=keep_last)
        self.writer = root and CheckpointWriter(root, ORIGIN, group=group or SingleProcess(), retention=retention)
        self.logged: list[tuple[int, dict[str, float]]] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.logged.append((step, dict(values)))
        if step == self.die_at:
            self.close()
            os.kill(os.getpid(), signal.SIGKILL)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """A forward pass without a backward one, as a real evaluation does."""
        with torch.no_grad():
            state.bare_model(make_batch(0, 2, generator=torch.Generator().manual_seed(0)))
        return {"psnr": -abs(state.counters.step - 4.0)}

    def checkpoint(self, state: TrainState, scores: Mapping[str, float]) -> None:
        if self.writer is not None:
            self.writer.save(state, scores)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def new_state(
    batch_size: int = 2,
    *,
    group: ProcessGroup | None = None,
    strategy: Strategy = "ddp",
    recompute: bool = False,
    dropout: float = 0.2,
) -> TrainState:
    """A fresh state, always the same."""
    group = group or SingleProcess()
    torch.manual_seed(7)
    bare = StandIn(dropout, recompute=recompute)
    model = spread(bare, strategy=strategy, group=group, device=torch.device("cpu"))
    return TrainState(
        model=model,
        optimizer=build_optimizer(model, OPTIM),
        batches=CountingBatches(batch_size, rank=group.rank, world_size=group.world_size),
        average=AveragedWeights(bare, 0.9),
    )


def run(
    state: TrainState,
    recorder: Recorder,
    *,
    num_steps: int = 10,
    batch_size: int = 2,
    group: ProcessGroup | None = None,
    objective: Objective | None = None,
) -> None:
    """Trains `state` with a checkpoint every second step."""
    config = LoopConfig(num_steps=num_steps, global_batch_size=4, log_every=1, evaluate_every=2, checkpoint_every=2)
    train_loop(
        state,
        objective or squared_error,
        config=config,
        optim=OPTIM,
        seed=3,
        batch_size=batch_size,
        group=group or SingleProcess(),
        device=torch.device("cpu"),
        reporter=recorder,
    )


def resume(root: Path) -> TrainState:
    """The state of the newest checkpoint below `root`."""
    state = new_state()
    path = latest_checkpoint(root)
    assert path is not None
    restore_checkpoint(path, state, ORIGIN)
    return state


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(new_state(), Recorder(Path(sys.argv[1]), die_at=int(sys.argv[2])))
