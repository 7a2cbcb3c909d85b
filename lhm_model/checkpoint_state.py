"""A training state as one flat table of tensors, named alike for every strategy and number of processes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lhmforge.lhm_model.train_loop import TrainState

MODEL, AVERAGE = "model/", "average/"


def state_tensors(state: TrainState) -> dict[str, Tensor]:
    """`model/NAME`, `average/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, `step/NAME`; writing to them changes `state`."""
    model = state.bare_model
    tensors = {MODEL + name: value.detach() for name, value in model.state_dict().items()}
    if state.average is not None:
        tensors |= {AVERAGE + name: value for name, value in state.average.state_dict().items()}
    for name, parameter in _trained(model):
        tensors |= {f"{moment}/{name}": value for moment, value in state.optimizer.state[parameter].items()}
    return tensors


def prepare_moments(state: TrainState, names: Iterable[str]) -> None:
    """Gives a fresh optimiser empty moments for those parameters whose moments are among `names`."""
    wanted = set(names)
    fused = bool(state.optimizer.param_groups[0].get("fused"))
    for name, parameter in _trained(state.bare_model):
        if f"exp_avg/{name}" not in wanted:
            continue
        device = parameter.device if fused else torch.device("cpu")
        state.optimizer.state[parameter] = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
