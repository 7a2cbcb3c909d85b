"""Finds named surface points (nose, ears, toes, heels, finger tips) on any body in the SMPL-X rest pose.

The licensed model and the free one have different vertices, so points are found from geometry and skinning weights
(rest pose: x to the subject's left, y up, z to the front) instead of stored vertex numbers.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32

from lhmforge.datasets.body.joints import joint

FINGERS = ("thumb", "index", "middle", "ring", "pinky")


def find_surface_points(
    v_template: Float32[np.ndarray, "V 3"], weights: Float32[np.ndarray, "V 55"], joints: Float32[np.ndarray, "55 3"]
) -> tuple[tuple[str, int], ...]:
    """Pairs of point name and vertex: nose, and per side eye, ear, five finger tips, big toe, small toe, heel."""
    owner = weights.argmax(1)
    head = np.isin(owner, [joint("head"), joint("jaw")])
    above_neck = v_template[:, 1] > joints[joint("neck"), 1]
    x, y, z = v_template.T
    found = {"nose": _best(head & above_neck & (np.abs(x) < 0.02), z, joints[joint("head")], v_template)}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        number = {name: joint(f"{side}_{name}") for name in ("eye", "foot", "ankle")}
        on_foot, on_ankle = owner == number["foot"], owner == number["ankle"]
        foot, ankle = joints[number["foot"]], joints[number["ankle"]]
        eye_score = z - 2 * np.linalg.norm(v_template - joints[number["eye"]], axis=1)
        found[f"{side}_eye"] = _best(owner == number["eye"], eye_score, joints[number["eye"]], v_template)
        found[f"{side}_ear"] = _best(head & above_neck, sign * x, joints[joint("head")], v_template)
        found[f"{side}_big_toe"] = _best(on_foot & (sign * x <= sign * foot[0] + 0.01), z, foot, v_template)
        found[f"{side}_small_toe"] = _best(on_foot, sign * x + 0.5 * z, foot, v_template)
        found[f"{side}_heel"] = _best(on_ankle, -z - y, ankle, v_template)
        for finger in FINGERS:
            last, before = joints[joint(f"{side}_{finger}3")], joints[joint(f"{side}_{finger}2")]
            along = (v_template - last) @ (last - before)
            found[f"{side}_{finger}_tip"] = _best(owner == joint(f"{side}_{finger}3"), along, last, v_template)
    return tuple(found.items())


def _best(
    candidates: Bool[np.ndarray, " V"],
    score: Float32[np.ndarray, " V"],
    fallback: Float32[np.ndarray, " 3"],
    v_template: Float32[np.ndarray, "V 3"],
) -> int:
    """Highest score among the candidates; where the body has none, the vertex nearest to the joint."""
    if not candidates.any():
        return int(np.linalg.norm(v_template - fallback, axis=1).argmin())
    return int(np.where(candidates, score, -np.inf).argmax())
