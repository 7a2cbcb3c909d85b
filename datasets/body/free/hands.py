"""Relaxed hand pose and 45 hand components: six hand-made synergies, completed to an orthonormal basis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class HandSpace:
    """Axis-angle of 15 joints (index, middle, pinky, ring, thumb; 3 each), left hand; the right one mirrors it."""

    mean: Float64[np.ndarray, " 45"]
    components: Float64[np.ndarray, "45 45"]


def left_hand_space() -> HandSpace:
    """The left hand; fingers point along +x, so flexion turns about -z."""
    spread = np.zeros((15, 3))
    spread[[0, 3, 6, 9], 1] = (-0.3, -0.05, 0.3, 0.1)
    synergies = [
        hand_pose((1.0, 1.0, 1.0, 1.0), 1.0),
        hand_pose((1.0, 0.0, 0.0, 0.0), 0.0),
        hand_pose((0.0, 0.0, 0.0, 0.0), 1.0),
        hand_pose((0.0, 1.0, -0.5, -0.5), 0.0),
        hand_pose((-0.5, 0.0, 1.0, 0.5), 0.0),
        spread,
    ]
    basis = np.concatenate([np.stack(synergies).reshape(-1, 45), np.eye(45)])
    components = np.linalg.qr(basis.T)[0][:, :45].T
    signs = np.sign((components[: len(synergies)] * basis[: len(synergies)]).sum(1))
    components[: len(synergies)] *= signs[:, None]
    return HandSpace(mean=hand_pose((0.25, 0.28, 0.32, 0.30), 0.3).reshape(45), components=components)


def mirrored(hand: HandSpace) -> HandSpace:
    """The other hand's space: reflection in the plane x = 0."""
    signs = np.tile([1.0, -1.0, -1.0], 15)
    return HandSpace(mean=hand.mean * signs, components=hand.components * signs)


def hand_pose(curl: tuple[float, float, float, float], thumb: float) -> Float64[np.ndarray, "15 3"]:
    """Left hand with each finger (index, middle, pinky, ring) curled by an angle in radians per knuckle."""
    pose = np.zeros((15, 3))
    for finger in range(4):
        pose[3 * finger : 3 * finger + 3, 2] = -curl[finger] * np.array([1.0, 1.1, 0.7])
    pose[12:] = thumb * np.array([[0.0, -0.3, -0.2], [0.0, -0.5, 0.0], [0.0, -0.6, 0.0]])
    return pose
