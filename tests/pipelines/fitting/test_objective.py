"""The objective's gradient, the banded system and its marginals against dense references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lhmforge.datasets.body.model import BodyModel
from lhmforge.pipelines.fitting.landmarks import solver_body
from lhmforge.pipelines.fitting.normal_equations import (
    NormalEquations,
    banded_matrix,
    damped_step,
    marginal_variances,
)
from lhmforge.pipelines.fitting.objective import (
    Contacts,
    FitState,
    Objective,
    ObjectiveConfig,
    Observations,
    apply_step,
)
from lhmforge.pipelines.fitting.priors import body_priors
from lhmforge.pipelines.fitting.rotations import exp_rotation

KERNEL = 9.0


def _problem(model: BodyModel, num_frames: int, config: ObjectiveConfig | None = None) -> tuple[Objective, FitState]:
    rng = np.random.default_rng(num_frames)
    body = solver_body(model, "none")
    k = body.num_points
    observations = Observations(
        times_s=np.cumsum(rng.uniform(0.02, 0.3, num_frames)),
        points_px=rng.uniform(200, 800, (num_frames, k, 2)),
        weights_px=rng.random((num_frames, k)),
        sigma_px=rng.uniform(10, 40, num_frames),
        landmarks_m=0.3 * rng.normal(size=(num_frames, k, 3)),
        weights_m=rng.random((num_frames, k)),
        intrinsics=np.array([[1000.0, 0, 500], [0, 1100.0, 400], [0, 0, 1]]),
    )
    state = FitState(
        rotations=exp_rotation(0.4 * rng.normal(size=(num_frames, 22, 3))),
        transl=0.1 * rng.normal(size=(num_frames, 3)) + [0, 0, 4],
        betas=0.5 * rng.normal(size=10),
        landmark_scale=0.95,
    )
    objective = Objective(
        body=body, observations=observations, priors=body_priors(), config=config or ObjectiveConfig()
    )
    return objective, state


def _dense(equations: NormalEquations) -> tuple[np.ndarray, np.ndarray]:
    n, d = equations.num_frames, equations.size
    b = len(equations.shape_gradient)
    matrix = np.zeros((n * d + b, n * d + b))
    at = lambda frame: slice(frame * d, frame * d + d)  # noqa: E731
    for frame in range(n):
        matrix[at(frame), at(frame)] = equations.frames[frame]
    for gap, blocks in ((1, equations.next1), (2, equations.next2)):
        for frame in range(len(blocks)):
            block = np.zeros((d, d))
            for i, small in enumerate(blocks[frame]):
                block[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] = small
            matrix[at(frame + gap), at(frame)] = block
            matrix[at(frame), at(frame + gap)] = block.T
    coupling = equations.shape_coupling.reshape(n * d, b)
    matrix[: n * d, n * d :], matrix[n * d :, : n * d] = coupling, coupling.T
    matrix[n * d :, n * d :] = equations.shape
    return matrix, np.concatenate([equations.gradient.ravel(), equations.shape_gradient])


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_gradient_matches_finite_differences(toy_model: BodyModel, num_frames: int) -> None:
    objective, state = _problem(toy_model, num_frames)
    equations = objective.linearise(state, KERNEL)
    step = 1e-6
    rng = np.random.default_rng(0)
    for frame, dof in zip(rng.integers(num_frames, size=60), rng.integers(69, size=60), strict=True):
        change = np.zeros((num_frames, 69))
        change[frame, dof] = step
        after = objective.cost(apply_step(state, change, np.zeros(10)), KERNEL)
        before = objective.cost(apply_step(state, -change, np.zeros(10)), KERNEL)
        assert (after - before) / (2 * step) == pytest.approx(2 * equations.gradient[frame, dof], rel=1e-4, abs=1e-3)
    for component in range(10):
        shape = np.zeros(10)
        shape[component] = step
        still = np.zeros((num_frames, 69))
        after = objective.cost(apply_step(state, still, shape), KERNEL)
        before = objective.cost(apply_step(state, still, -shape), KERNEL)
        assert (after - before) / (2 * step) == pytest.approx(
            2 * equations.shape_gradient[component], rel=1e-4, abs=1e-3
        )


def test_gradient_with_standing_points_matches_finite_differences(toy_model: BodyModel) -> None:
    objective, state = _problem(toy_model, 4)
    points, stays = np.array([17, 19]), np.array([[0, 2], [0, 2], [-1, 2], [1, -1]])
    held = replace(objective, contacts=Contacts(points=points, stays=stays, sigma_m=0.05))
    moved = apply_step(state, 0.01 * np.random.default_rng(1).normal(size=(4, 69)), np.zeros(10))
    state = replace(state, anchors=held.best_anchors(moved))
    equations = held.linearise(state, KERNEL)
    plain = objective.linearise(state, KERNEL)
    assert np.abs(equations.gradient - plain.gradient).max() > 1
    for frame, dof in ((0, 3), (1, 68), (2, 5), (3, 12), (3, 66)):
        change = np.zeros((4, 69))
        change[frame, dof] = 1e-6
        after = held.cost(apply_step(state, change, np.zeros(10)), KERNEL)
        before = held.cost(apply_step(state, -change, np.zeros(10)), KERNEL)
        assert (after - before) / 2e-6 == pytest.approx(2 * equations.gradient[frame, dof], rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 6, 7])
def test_banded_step_and_marginals_match_dense_algebra(toy_model: BodyModel, num_frames: int) -> None:
    objective, state = _problem(toy_model, num_frames)
    equations = objective.linearise(state, KERNEL)
    matrix, gradient = _dense(equations)
    step = damped_step(equations, banded_matrix(equations), 0.0)
    assert step is not None
    expected = -np.linalg.solve(matrix, gradient)
    np.testing.assert_allclose(np.concatenate([step.frames.ravel(), step.shape]), expected, rtol=1e-5, atol=1e-6)
    variances = np.diag(np.linalg.inv(matrix))[: num_frames * 69].reshape(num_frames, 69)
    np.testing.assert_allclose(marginal_variances(equations), variances, rtol=1e-4, atol=1e-8)


def test_frozen_blocks_do_not_move(toy_model: BodyModel) -> None:
    objective, state = _problem(toy_model, 4, ObjectiveConfig(frozen=(0, 22)))
    step = damped_step(*(lambda e: (e, banded_matrix(e), 0.1))(objective.linearise(state, KERNEL)))
    assert step is not None
    np.testing.assert_array_equal(step.frames[:, :3], 0)
    np.testing.assert_array_equal(step.frames[:, 66:], 0)
    assert np.abs(step.frames[:, 3:66]).max() > 0


def test_smoothness_ignores_where_constant_motion_is_sampled(toy_model: BodyModel) -> None:
    """A body that moves evenly costs nothing, however uneven the frame times are."""
    objective, state = _problem(toy_model, 5)
    times = objective.observations.times_s
    rng = np.random.default_rng(3)
    turn = rng.normal(size=(22, 3)) * 0.5
    steady = FitState(
        rotations=exp_rotation(times[:, None, None] * turn), transl=times[:, None] * [0.1, 0.2, 0.3], betas=state.betas
    )
    accelerations = objective._accelerations(objective._steps(steady))
    np.testing.assert_allclose(accelerations, 0, atol=1e-9)
