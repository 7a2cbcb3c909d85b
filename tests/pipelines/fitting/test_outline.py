"""Distance fields of mattes, which rim points count, and the gradient of the outline's cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.codecs import encode_png
from lhmforge.datasets.records import AlphaCrop
from lhmforge.pipelines.fitting.landmarks import POINT_NAMES, point_index, solver_body
from lhmforge.pipelines.fitting.objective import FitState, Objective, Observations, apply_step
from lhmforge.pipelines.fitting.outline import Mattes, Outline, OutlineConfig, build_outline, sample_surface
from lhmforge.pipelines.fitting.priors import body_priors
from lhmforge.pipelines.fitting.start import rest_rotations

INTRINSICS = np.array([[600.0, 0, 320], [0, 600.0, 240], [0, 0, 1]])
FRAMES = 3


def _state() -> FitState:
    rotations = rest_rotations(FRAMES)
    rotations[:, 0] = np.diag([1.0, -1.0, -1.0])
    return FitState(rotations=rotations, transl=np.tile([0.0, -0.2, 4.0], (FRAMES, 1)), betas=np.zeros(10))


def _outline(model: BodyModel, point_weights: np.ndarray) -> Outline:
    """A matte that is a plain rectangle around the body's place."""
    crop = np.full((300, 120), 255, np.uint8)
    alpha = AlphaCrop(window_px=(260, 90, 380, 390), png=encode_png(crop))
    box = np.array([[260.0, 90, 380, 390]])
    mattes = Mattes(
        sample=sample_surface(model, 60),
        alphas=(alpha,) * FRAMES,
        boxes_px=np.repeat(box, FRAMES, 0),
        size_px=(640, 480),
    )
    state = _state()
    config = OutlineConfig(stride=1, rim=0.9)
    return build_outline(mattes, point_weights, INTRINSICS, state.rotations, state.transl, state.betas, config)


def test_distances_are_signed_and_in_pixels(toy_model: BodyModel) -> None:
    outline = _outline(toy_model, np.ones((FRAMES, len(POINT_NAMES))))
    places = np.tile([[320.0, 240.0], [240.0, 240.0], [400.0, 240.0], [320.0, 70.0]], (FRAMES, 1, 1))
    distance, slope = outline.distances(places)
    np.testing.assert_allclose(distance[0], [-60, 20, 20, 20], atol=3)
    np.testing.assert_allclose(slope[0, 1:], [[-1, 0], [1, 0], [0, -1]], atol=0.05)


def test_a_limb_that_nobody_sees_does_not_count(toy_model: BodyModel) -> None:
    weights = np.ones((FRAMES, len(POINT_NAMES)))
    everything = _outline(toy_model, weights)
    weights[:, point_index("left_wrist")] = 0.05
    without = _outline(toy_model, weights)
    beside = (everything.sample.beside == point_index("left_wrist")).any(1)
    assert (everything.weights[:, beside] > 0).any()
    assert (without.weights[:, beside] == 0).all()
    np.testing.assert_array_equal(without.weights[:, ~beside], everything.weights[:, ~beside])


@pytest.mark.parametrize("dof", [0, 2, 5, 12, 50, 54, 66, 67, 68])
def test_gradient_matches_finite_differences(toy_model: BodyModel, dof: int) -> None:
    k = len(POINT_NAMES)
    observations = Observations(
        times_s=np.arange(FRAMES) / 10,
        points_px=np.zeros((FRAMES, k, 2)),
        weights_px=np.zeros((FRAMES, k)),
        sigma_px=np.ones(FRAMES),
        landmarks_m=np.zeros((FRAMES, k, 3)),
        weights_m=np.zeros((FRAMES, k)),
        intrinsics=INTRINSICS,
    )
    outline = _outline(toy_model, np.ones((FRAMES, k)))
    objective = Objective(
        body=solver_body(toy_model, "none"), observations=observations, priors=body_priors(), outline=outline
    )
    plain = replace(objective, outline=None)
    state = _state()
    # The priors' share is checked elsewhere; here only what the outline adds.
    found = (objective.linearise(state, 9.0).gradient - plain.linearise(state, 9.0).gradient)[1, dof]
    step, change = 1e-5, np.zeros((FRAMES, 69))
    change[1, dof] = step

    def added(sign: float) -> float:
        moved = apply_step(state, sign * change, np.zeros(10))
        return objective.cost(moved, 9.0) - plain.cost(moved, 9.0)

    assert (added(1) - added(-1)) / (2 * step) == pytest.approx(2 * found, rel=2e-2, abs=2e-2)
