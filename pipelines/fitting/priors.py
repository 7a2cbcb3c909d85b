"""What is known about poses before any picture: joint ranges and spreads, in SMPL-X axis-angle components.

Ranges are anatomical ones (degrees) written for the left side; the right side mirrors y and z. Beyond a range the
cost grows quadratically; inside it only a weak pull towards the middle pose acts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from lhmforge.pipelines.fitting.keypoint_body import NUM_BODY_JOINTS


@dataclass(frozen=True, slots=True, kw_only=True)
class JointPriors:
    """Per joint and axis-angle component, radians; the root's rows are unbounded."""

    low: Float64[np.ndarray, "J 3"]
    high: Float64[np.ndarray, "J 3"]
    mean: Float64[np.ndarray, "J 3"]
    sigma: Float64[np.ndarray, "J 3"]


_MIRROR = {1: 2, 4: 5, 7: 8, 10: 11, 13: 14, 16: 17, 18: 19, 20: 21}

# joint: ((low, high) of x, y, z; spread), degrees, left side.
_BODY_RANGES: dict[int, tuple[tuple[tuple[float, float], ...], float]] = {
    1: (((-120, 40), (-45, 45), (-35, 60)), 60),  # hip
    4: (((-5, 150), (-10, 10), (-10, 10)), 60),  # knee
    7: (((-50, 40), (-30, 30), (-25, 25)), 20),  # ankle
    10: (((-40, 20), (-10, 10), (-10, 10)), 10),  # toes
    3: (((-20, 45), (-30, 30), (-25, 25)), 10),  # spine
    6: (((-20, 35), (-30, 30), (-20, 20)), 8),
    9: (((-15, 25), (-30, 30), (-20, 20)), 8),
    12: (((-35, 40), (-50, 50), (-30, 30)), 15),  # neck
    15: (((-35, 35), (-45, 45), (-25, 25)), 15),  # head
    13: (((-15, 15), (-25, 25), (-20, 30)), 8),  # collar
    16: (((-90, 90), (-110, 60), (-100, 80)), 60),  # shoulder
    18: (((-60, 60), (-155, 5), (-15, 15)), 60),  # elbow
    20: (((-60, 60), (-35, 35), (-75, 75)), 20),  # wrist
}

# Where a joint rests when nothing is seen of it, degrees, left side; zero elsewhere. The zero pose holds the arms out.
_BODY_MEANS: dict[int, tuple[float, float, float]] = {16: (0, 0, -60), 18: (0, -15, 0), 4: (8, 0, 0)}

_FLEX = (-20.0, 100.0)


def body_priors() -> JointPriors:
    """Ranges and spreads of the pelvis and the 21 body joints."""
    low, high = np.full((NUM_BODY_JOINTS, 3), -np.inf), np.full((NUM_BODY_JOINTS, 3), np.inf)
    sigma, mean = np.full((NUM_BODY_JOINTS, 3), np.inf), np.zeros((NUM_BODY_JOINTS, 3))
    for joint, (ranges, spread) in _BODY_RANGES.items():
        low[joint], high[joint] = np.array(ranges, np.float64).T
        sigma[joint] = spread
        mean[joint] = _BODY_MEANS.get(joint, (0, 0, 0))
        if joint in _MIRROR:
            other = _MIRROR[joint]
            low[other] = [low[joint, 0], -high[joint, 1], -high[joint, 2]]
            high[other] = [high[joint, 0], -low[joint, 1], -low[joint, 2]]
            sigma[other] = spread
            mean[other] = mean[joint] * [1, -1, -1]
    return _in_radians(low, high, mean, sigma)


def hand_priors(*, left: bool) -> JointPriors:
    """Ranges and spreads of a wrist (unbounded) and its 15 finger joints, in SMPL-X order (thumb last).

    With flat hands along the x axis, curling a finger turns about z: negative on the left, positive on the right.
    """
    curl = -1.0 if left else 1.0
    low, high = np.full((16, 3), -np.inf), np.full((16, 3), np.inf)
    sigma, mean = np.full((16, 3), np.inf), np.zeros((16, 3))
    bend = sorted((curl * _FLEX[0], curl * _FLEX[1]))
    for joint in range(1, 16):
        knuckle, thumb = joint % 3 == 1, joint >= 13
        side = 20.0 if knuckle else 4.0
        low[joint], high[joint] = [-8, -side, bend[0]], [8, side, bend[1]]
        sigma[joint], mean[joint] = [5, side / 2, 35], [0, 0, curl * 15]
        if thumb:
            low[joint], high[joint], sigma[joint], mean[joint] = [-50] * 3, [50] * 3, [25] * 3, [0] * 3
    return _in_radians(low, high, mean, sigma)


def _in_radians(low: np.ndarray, high: np.ndarray, mean: np.ndarray, sigma: np.ndarray) -> JointPriors:
    return JointPriors(low=np.deg2rad(low), high=np.deg2rad(high), mean=np.deg2rad(mean), sigma=np.deg2rad(sigma))
