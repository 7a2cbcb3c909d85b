"""Rotation maps: round trips, singular places, and the Jacobian against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lhmforge.pipelines.fitting.rotations import exp_rotation, log_rotation, right_jacobian_inverse, swing


@pytest.fixture
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sizes = np.concatenate([np.zeros(10), 10.0 ** rng.uniform(-9, 0, 190), rng.uniform(0, np.pi - 1e-6, 200)])
    return directions * sizes[:, None]


def test_exp_agrees_with_scipy(vectors: np.ndarray) -> None:
    np.testing.assert_allclose(exp_rotation(vectors), Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12)


def test_log_inverts_exp_near_zero_and_near_pi(vectors: np.ndarray) -> None:
    np.testing.assert_allclose(log_rotation(exp_rotation(vectors)), vectors, atol=1e-7)


def test_right_jacobian_inverse_matches_finite_differences(vectors: np.ndarray) -> None:
    inner = vectors[np.linalg.norm(vectors, axis=1) < 3.0]
    step = 1e-6
    for axis in range(3):
        delta = np.zeros(3)
        delta[axis] = step
        after = log_rotation(exp_rotation(inner) @ exp_rotation(delta))
        before = log_rotation(exp_rotation(inner) @ exp_rotation(-delta))
        np.testing.assert_allclose(right_jacobian_inverse(inner)[..., axis], (after - before) / (2 * step), atol=2e-5)


def test_swing_turns_start_onto_end() -> None:
    rng = np.random.default_rng(1)
    start, end = rng.normal(size=(2, 50, 3))
    turned = (swing(start, end) @ start[..., None])[..., 0]
    np.testing.assert_allclose(np.cross(turned, end), 0, atol=1e-9)
