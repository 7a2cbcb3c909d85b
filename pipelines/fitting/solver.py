"""Levenberg-Marquardt over a whole clip, with the robust loss tightened step by step (graduated non-convexity)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64
from threadpoolctl import threadpool_limits

from lhmforge.pipelines.fitting.normal_equations import banded_matrix, damped_step, marginal_variances
from lhmforge.pipelines.fitting.objective import FitState, Objective, apply_step

_LARGEST_DAMPING = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverConfig:
    """When to stop, and how the robust loss is tightened from `start_kernel` to `kernel` by halves."""

    max_iterations: int = 25
    relative_gain: float = 2e-4  # stop when a step at the final kernel gains less
    kernel: float = 9.0
    start_kernel: float = 72.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The state at the minimum, its cost, and how many linear systems were solved."""

    state: FitState
    cost: float
    costs: tuple[float, ...] = field(default=())

    @property
    def num_iterations(self) -> int:
        return len(self.costs)


def solve(objective: Objective, start: FitState, config: SolverConfig) -> Solution:
    """Minimises the objective from `start`; the cost of the result never exceeds the start's (same kernel).

    Linear algebra runs on one thread: the matrices are small, and clips run in parallel processes.
    """
    with threadpool_limits(limits=1):
        return _solve(objective, start, config)


def _solve(objective: Objective, start: FitState, config: SolverConfig) -> Solution:
    damping, kernel = 1e-3, max(config.start_kernel, config.kernel)
    state = replace(start, anchors=objective.best_anchors(start))
    costs: list[float] = []
    for _ in range(config.max_iterations):
        before = objective.cost(state, kernel)
        equations = objective.linearise(state, kernel)
        banded = banded_matrix(equations)
        accepted = False
        while damping <= _LARGEST_DAMPING:
            step = damped_step(equations, banded, damping)
            if step is not None:
                trial = apply_step(state, step.frames, step.shape)
                after = objective.cost(trial, kernel)
                if after < before:
                    accepted = True
                    break
            damping *= 6
        if not accepted:
            if kernel <= config.kernel:
                break
            damping, kernel = 1e-3, max(config.kernel, kernel / 2)
            continue
        state = objective.settle(trial, kernel)
        costs.append(after)
        damping = max(damping / 4, 1e-7)
        if kernel <= config.kernel and before - after < config.relative_gain * before:
            break
        kernel = max(config.kernel, kernel / 2)
    return Solution(state=state, cost=objective.cost(state, config.kernel), costs=tuple(costs))


def rotation_uncertainty(objective: Objective, state: FitState, kernel: float) -> Float64[np.ndarray, " N"]:
    """Root mean square over the joints of the rotations' standard deviations, radians, per frame.

    The inverse of the Gauss-Newton matrix is the covariance of the unknowns under the objective's noise model.
    """
    with threadpool_limits(limits=1):
        variances = marginal_variances(objective.linearise(state, kernel))
    rotation = variances[:, :-3].reshape(len(variances), -1, 3).sum(2)
    result: np.ndarray = np.sqrt(rotation.mean(1))
    return result
