"""The training loop: one function in plain torch that runs alone, under Ray Train, or under any process group."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lhmforge.datasets.batch import Batch
from lhmforge.datasets.errors import ConfigError, DivergenceError
from lhmforge.lhm_model.optim import AveragedWeights, OptimConfig, learning_rate_at, set_learning_rate
from lhmforge.lhm_model.parallel import ProcessGroup, full, gradient_sync, settle, unwrap

Precision = Literal["float32", "bfloat16"]  # of the network; geometry, renderer and optimiser are always float32


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How long a run is and how often it reports; a step is one optimiser step over `global_batch_size` samples."""

    num_steps: int
    global_batch_size: int
    log_every: int = 10
    evaluate_every: int = 1000  # 0: only after the last step
    checkpoint_every: int = 1000  # 0: only after the last step
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for name in ("num_steps", "global_batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"loop.{name}: {getattr(self, name)} is below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveValue:
    """The loss to descend (scalar, mean over the batch) and its named parts (scalars, detached)."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor]


@runtime_checkable
class Objective(Protocol):
    """Runs the (wrapped) model on a batch and returns the loss at optimiser step `step`."""

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> ObjectiveValue: ...


@runtime_checkable
class BatchSource(Protocol):
    """An endless stream of batches whose position can be saved; the position counts consumed batches only."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, int | str]: ...

    def load_state_dict(self, state: dict[str, int | str]) -> None: ...


@runtime_checkable
class Reporter(Protocol):
    """What the loop tells the outside; called by every process, in the same order."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values after `step` optimiser steps."""

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Held-out scores of the state's model, the same on every process."""

    def checkpoint(self, state: TrainState, scores: Mapping[str, float]) -> None:
        """Saves the state as it is now; may go on saving in the background."""


@dataclass(slots=True)
class Counters:
    """How far a run has come."""

    step: int = 0  # optimiser steps done
    samples_seen: int = 0  # over all processes, repeats counted
    seconds: float = 0.0  # spent in the loop, over all restarts


@dataclass(slots=True)
class TrainState:
    """Everything that changes while a run trains; a checkpoint holds exactly this."""

    model: nn.Module  # as wrapped by `parallel.spread`
    optimizer: torch.optim.Optimizer
    batches: BatchSource
    average: AveragedWeights | None = None
    counters: Counters = field(default_factory=Counters)

    @property
    def bare_model(self) -> nn.Module:
        return unwrap(self.model)


def train_loop(
    state: TrainState,
    objective: Objective,
    *,
    config: LoopConfig,
    optim: OptimConfig,
    seed: int,
    batch_size: int,
    group: ProcessGroup,
    device: torch.device,
    reporter: Reporter,
) -> None:
    """Trains `state` in place up to `config.num_steps` optimiser steps.

    `batch_size` is the number of samples that `state.batches` yields per process and pass; passes are accumulated to
    `config.global_batch_size` samples per step. Random numbers restart at every step from (seed, step, rank), so that
    a resumed run draws what an undisturbed one draws, on any rank and with no generator state to keep.

    Raises:
        ConfigError: the global batch is no multiple of what all processes hold in one pass.
        DivergenceError: a loss or gradient is not finite; names the samples of the step, and the state still holds
            the last good weights.
    """
    passes = num_passes(config.global_batch_size, batch_size=batch_size, world_size=group.world_size)
    iterator = iter(state.batches)
    meter = _Meter()
    state.model.train()
    while state.counters.step < config.num_steps:
        started = time.perf_counter()
        step = state.counters.step
        torch.manual_seed(_step_seed(seed, step, group.rank))
        set_learning_rate(state.optimizer, learning_rate_at(step, num_steps=config.num_steps, config=optim))
        _tell_step(state.bare_model, step)
        batches = [next(iterator) for _ in range(passes)]
        fetched = time.perf_counter()
        losses = _backward(state, objective, batches, step, config, device, meter)
        norm = full(torch.nn.utils.clip_grad_norm_(state.model.parameters(), optim.grad_clip))
        _guard(losses, norm, batches, step, group)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        if state.average is not None:
            state.average.update(state.bare_model)
        meter.add_step(norm, fetch_seconds=fetched - started, step_seconds=time.perf_counter() - started)
        state.counters.step += 1
        state.counters.samples_seen += config.global_batch_size
        state.counters.seconds += time.perf_counter() - started
        _report(state, config, optim, group, reporter, meter)


def num_passes(global_batch_size: int, *, batch_size: int, world_size: int) -> int:
    """Forward/backward passes per optimiser step on each process; raises `ConfigError` when they do not divide."""
    per_pass = batch_size * world_size
    if global_batch_size % per_pass:
        raise ConfigError(
            f"loop.global_batch_size: {global_batch_size} is no multiple of "
            f"{batch_size} samples per pass x {world_size} processes = {per_pass}"
        )
    return global_batch_size // per_pass


def _backward(
    state: TrainState,
    objective: Objective,
    batches: Sequence[Batch],
    step: int,
    config: LoopConfig,
    device: torch.device,
    meter: _Meter,
) -> Tensor:
    """Accumulates the gradient of the mean loss over `batches`; returns each batch's loss."""
    losses = []
    for index, batch in enumerate(batches):
        on_device = batch.to(device, non_blocking=True)
        with gradient_sync(state.model, index == len(batches) - 1):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
                value = objective(state.model, on_device, step)
                loss = value.total / len(batches)
            loss.backward()
        losses.append(value.total.detach())
        meter.add_loss(value, share=1 / len(batches))
    return torch.stack(losses)


def _guard(losses: Tensor, norm: Tensor, batches: Sequence[Batch], step: int, group: ProcessGroup) -> None:
    """Raises the same on every process when one of them met a loss or gradient that is not finite."""
    finite = torch.isfinite(losses)
    if bool(group.minimum((finite.all() & torch.isfinite(norm)).float()) > 0):
        return
    # A bad loss names its own pass; a bad gradient is already shared by all passes and processes.
    told = finite.tolist()
    suspects = group.gather_strings(
        [key for batch, ok in zip(batches, told, strict=True) if not ok for key in batch.sample_ids]
    )
    what = "loss"
    if not suspects:
        what = "gradient"
        suspects = group.gather_strings([key for batch in batches for key in batch.sample_ids])
    raise DivergenceError(
        f"step {step}: the {what} is not finite; samples: {', '.join(suspects)}. "
        "Look at these samples, lower optim.learning_rate, or resume from the last checkpoint without them."
    )


def _report(
    state: TrainState,
    config: LoopConfig,
    optim: OptimConfig,
    group: ProcessGroup,
    reporter: Reporter,
    meter: _Meter,
) -> None:
    """Logs, evaluates and saves when the step counter says so; the last step does all three."""
    step = state.counters.step
    last = step == config.num_steps
    if last or step % config.log_every == 0:
        values = meter.drain(group)
        values["learning_rate"] = learning_rate_at(step - 1, num_steps=config.num_steps, config=optim)
        values["samples_seen"] = float(state.counters.samples_seen)
        values["samples_per_s"] = config.global_batch_size / values["step_s"]
        reporter.metrics(step, values)
    scores: dict[str, float] = {}
    evaluates = last or _due(step, config.evaluate_every)
    saves = last or _due(step, config.checkpoint_every)
    if evaluates:
        scores = _evaluate(state, reporter)
        if scores:
            reporter.metrics(step, scores)
    if saves:
        started = time.perf_counter()
        reporter.checkpoint(state, scores)
        reporter.metrics(step, {"checkpoint_blocked_s": time.perf_counter() - started})


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _evaluate(state: TrainState, reporter: Reporter) -> dict[str, float]:
    """Evaluates the averaged weights where there are any."""
    state.model.eval()
    if state.average is not None:
        state.average.swap(state.bare_model)
    scores = reporter.evaluate(state)
    settle(state.model)
    if state.average is not None:
        state.average.swap(state.bare_model)
    state.model.train()
    return scores


class _Meter:
    """Sums of loss parts on the device, read once per report so that the device is not waited for at every step."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._step_seconds = self._fetch_seconds = 0.0

    def add_loss(self, value: ObjectiveValue, *, share: float) -> None:
        for name, part in {"loss": value.total, **{f"loss_{k}": v for k, v in value.parts.items()}}.items():
            self._add(name, part.detach() * share)

    def add_step(self, norm: Tensor, *, fetch_seconds: float, step_seconds: float) -> None:
        self._add("grad_norm", norm.detach())
        self._steps += 1
        self._fetch_seconds += fetch_seconds
        self._step_seconds += step_seconds

    def drain(self, group: ProcessGroup) -> dict[str, float]:
        """Means per step since the last call, averaged over processes."""
        names = sorted(self._sums)
        sums = torch.stack([self._sums[name].float().reshape(()) for name in names])
        means = (group.mean(sums) / self._steps).tolist()
        values = {name: value for name, value in zip(names, means, strict=True) if math.isfinite(value)}
        values["step_s"] = self._step_seconds / self._steps
        values["fetch_s"] = self._fetch_seconds / self._steps
        self._reset()
        return values

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value


def _tell_step(model: nn.Module, step: int) -> None:
    """Passes the step to models with a schedule of their own (LHM's bound on Gaussian scales)."""
    set_step = getattr(model, "set_step", None)
    if set_step is not None:
        set_step(step)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Distinct for distinct (seed, step, rank) in any practical range."""
    return (seed * 1_000_003 + step) * 65_537 + rank
