"""What an optimiser step of a training run costs here, measured before a study starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from lhmforge.jobs.config import TrainConfig
from lhmforge.jobs.training_worker import new_training
from lhmforge.lhm_model.parallel import SingleProcess
from lhmforge.lhm_model.train_loop import TrainState, train_loop

_WARM_UP_STEPS, _MEASURED_STEPS = 2, 4


class _StepClock:
    """Keeps the seconds of each step; evaluates and saves nothing."""

    def __init__(self) -> None:
        self.step_seconds: list[float] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if "step_s" in values:  # what a save cost is told by itself
            self.step_seconds.append(values["step_s"])

    def evaluate(self, state: TrainState) -> dict[str, float]:
        return {}

    def checkpoint(self, state: TrainState, scores: Mapping[str, float]) -> None:
        return None


def measure_step_seconds(config: TrainConfig) -> float | None:
    """Median seconds per step of one worker doing its share; None where this process lacks the run's device."""
    if config.hardware.device == "cuda" and not torch.cuda.is_available():
        return None
    share = config.loop.global_batch_size // config.hardware.world_size
    loop = replace(config.loop, num_steps=_WARM_UP_STEPS + _MEASURED_STEPS, global_batch_size=share, log_every=1)
    alone = replace(config, hardware=replace(config.hardware, num_workers=0, strategy="ddp"), loop=loop)
    device = torch.device(config.hardware.device)
    training = new_training(alone, group=SingleProcess(), device=device)
    clock = _StepClock()
    train_loop(
        training.state,
        training.objective,
        config=loop,
        optim=config.optim,
        seed=config.seed,
        batch_size=config.loader.batch_size,
        group=SingleProcess(),
        device=device,
        reporter=clock,
    )
    measured = sorted(clock.step_seconds[_WARM_UP_STEPS:])
    return measured[len(measured) // 2]
