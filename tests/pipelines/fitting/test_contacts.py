"""Standing feet: which stretches count, and that holding them keeps them in place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lhmforge.datasets.body.model import BodyModel
from lhmforge.pipelines.fitting.clip_fit import ClipFitConfig, fit_clip
from lhmforge.pipelines.fitting.contacts import ContactConfig, find_contacts
from lhmforge.pipelines.fitting.landmarks import POINT_NAMES, point_index, solver_body
from lhmforge.pipelines.fitting.objective import Observations
from lhmforge.pipelines.fitting.solver_check import ClipNoise, make_check_clip

HEEL = point_index("left_heel")


def _watch(places_m: np.ndarray, weight: float = 1.0) -> Observations:
    """The left heel at `places_m` (N x 2), 5 m away, at 20 frames/s; nothing else is seen."""
    n, k = len(places_m), len(POINT_NAMES)
    points, weights = np.zeros((n, k, 2)), np.zeros((n, k))
    points[:, HEEL] = places_m * 1000 / 5
    weights[:, HEEL] = weight
    return Observations(
        times_s=np.arange(n) / 20,
        points_px=points,
        weights_px=weights,
        sigma_px=np.ones(n),
        landmarks_m=np.zeros((n, k, 3)),
        weights_m=np.zeros((n, k)),
        intrinsics=np.diag([1000.0, 1000.0, 1.0]),
    )


def test_a_foot_stands_between_two_steps() -> None:
    x = np.concatenate([np.zeros(8), np.linspace(0.1, 0.9, 5), np.ones(8)])
    stays = find_contacts(_watch(np.stack([x, 0 * x], 1)), np.full(21, 5.0), ContactConfig()).stays
    column = stays[:, stays.max(0) >= 0]
    assert column.shape[1] == 1
    np.testing.assert_array_equal(column[:8, 0], 0)
    np.testing.assert_array_equal(column[9:12, 0], -1)
    np.testing.assert_array_equal(column[14:, 0], 1)


@pytest.mark.parametrize("case", ["moves", "unseen", "off"])
def test_what_does_not_stand_is_not_held(case: str) -> None:
    x = np.linspace(0, 3, 30) if case == "moves" else np.zeros(30)
    config = ContactConfig(sigma_m=0.0) if case == "off" else ContactConfig()
    seen = _watch(np.stack([x, 0 * x], 1), weight=0.05 if case == "unseen" else 1.0)
    assert find_contacts(seen, np.full(30, 5.0), config).num_stays == 0


def test_a_held_foot_slides_less(true_model: BodyModel, free_model: BodyModel) -> None:
    clip = make_check_clip(true_model, motion="dance", num_frames=24, seed=1, noise=ClipNoise(points_px=4.0))
    still = np.repeat(np.arange(24)[:1], 24)
    seen = clip.observations
    rng = np.random.default_rng(2)
    frozen = replace(
        seen,
        points_px=seen.points_px[still] + rng.normal(0, 4, seen.points_px.shape),
        weights_px=np.ones_like(seen.weights_px),
        landmarks_m=seen.landmarks_m[still],
        weights_m=np.ones_like(seen.weights_m),
    )
    body = solver_body(free_model, "none")
    free, held = (fit_clip(body, frozen, ClipFitConfig(contacts=ContactConfig(sigma_m=sigma))) for sigma in (0.0, 0.02))
    moved = []
    for fit in (free, held):
        points = body.forward(fit.state.rotations, fit.state.transl, fit.state.betas).points
        moved.append(np.linalg.norm(np.diff(points[:, HEEL], axis=0), axis=-1).mean())
    assert len(held.state.anchors) > 0
    assert moved[1] < 0.6 * moved[0]
