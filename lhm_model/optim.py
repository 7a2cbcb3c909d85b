"""The optimiser: parameter groups, the learning rate as a pure function of the step, and averaged weights.

Groups follow the public LHM code: no weight decay for LayerNorm parameters and for every bias; everything else
decays, the gains of the query/key RMSNorm included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lhmforge.datasets.errors import ConfigError
from lhmforge.lhm_model.parallel import local


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule; `cosine` decays to 0 at the last step, `constant` ends with a linear cooldown to 0."""

    learning_rate: float = 4e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    grad_clip: float = 0.1  # maximum norm of the whole gradient
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 3000
    cooldown_fraction: float = 0.2  # share of all steps that `constant` spends going down to 0
    ema_decay: float | None = None  # None: no averaged weights

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.grad_clip <= 0 or self.weight_decay < 0:
            raise ConfigError("optim: learning_rate and grad_clip must be positive, weight_decay not negative")
        if self.warmup_steps < 0:
            raise ConfigError(f"optim.warmup_steps: {self.warmup_steps} is negative")
        if not 0 <= self.cooldown_fraction <= 1:
            raise ConfigError(f"optim.cooldown_fraction: {self.cooldown_fraction} is not in 0..1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"optim.ema_decay: {self.ema_decay} is not between 0 and 1")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two AdamW groups (decay, no decay) that hold each trainable parameter once, in module order."""
    decay: dict[int, nn.Parameter] = {}
    no_decay: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in decay or id(parameter) in no_decay:
                continue
            exempt = isinstance(module, nn.LayerNorm) or name == "bias" or name.endswith("_bias")
            (no_decay if exempt else decay)[id(parameter)] = parameter
    return [
        {"params": list(decay.values()), "weight_decay": weight_decay},
        {"params": list(no_decay.values()), "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; fused where the parameters lie on a GPU."""
    groups = [group for group in parameter_groups(model, config.weight_decay) if group["params"]]
    assert groups, "the model has no trainable parameter"
    on_gpu = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=on_gpu or None)


def learning_rate_at(step: int, *, num_steps: int, config: OptimConfig) -> float:
    """Learning rate of optimiser step `step` (0-based) of a run of `num_steps`; the schedule has no other state."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    cooldown_steps = max(1, round(config.cooldown_fraction * num_steps))
    remaining = max(0, num_steps - step)
    return config.learning_rate * min(1.0, remaining / cooldown_steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


class AveragedWeights:
    """Exponential moving average of a model's trainable parameters; `swap` exchanges it with the live weights.

    A sharded model gets sharded averages; make them after sharding.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._average = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the weights of `model` by `1 - decay`."""
        live = [p.detach() for p in model.parameters() if p.requires_grad]
        # An average of parts is a part of the average: each process moves what it holds.
        averages = [local(average) for average in self._average.values()]
        torch._foreach_lerp_(averages, [local(value) for value in live], 1 - self._decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchanges live and averaged weights; calling it twice restores both."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                held, average = local(parameter.detach()), local(self._average[name])
                live = held.clone()
                held.copy_(average)
                average.copy_(live)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages themselves: writing to them changes this object."""
        return dict(self._average)
