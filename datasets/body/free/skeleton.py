"""Which MakeHuman bones make up each SMPL-X joint, and where each joint lies."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from lhmforge.datasets.body.free.makehuman import Rig
from lhmforge.datasets.body.joints import JOINT_NAMES, NUM_JOINTS, joint

FINGER_NUMBER = {"thumb": 1, "index": 2, "middle": 3, "ring": 4, "pinky": 5}
SIDES = (("left", "L", 1.0), ("right", "R", -1.0))


def joint_bones() -> dict[str, tuple[str, ...]]:
    """Per SMPL-X joint, the bones whose heads (averaged) are the joint's position."""
    bones: dict[str, tuple[str, ...]] = {
        "pelvis": ("spine04",),
        "spine1": ("spine03",),
        "spine2": ("spine02",),
        "spine3": ("spine01",),
        "neck": ("neck01",),
        "head": ("head",),
        "jaw": ("jaw",),
    }
    limbs = {"hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "collar": "clavicle", "eye": "eye"}
    limbs |= {"shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist"}
    for side, letter, _ in SIDES:
        bones |= {f"{side}_{name}": (f"{bone}.{letter}",) for name, bone in limbs.items()}
        bones[f"{side}_foot"] = tuple(f"toe{i}-1.{letter}" for i in range(1, 6))
        for finger, number in FINGER_NUMBER.items():
            bones |= {f"{side}_{finger}{i}": (f"finger{number}-{i}.{letter}",) for i in (1, 2, 3)}
    return bones


def joint_of_head(rig: Rig) -> Float64[np.ndarray, "55 B"]:
    """Row-stochastic matrix: joint positions = this @ bone heads."""
    matrix = np.zeros((NUM_JOINTS, len(rig.names)))
    for name, bones in joint_bones().items():
        matrix[joint(name), [rig.index(b) for b in bones]] = 1 / len(bones)
    return matrix


def bone_owner(rig: Rig) -> Int64[np.ndarray, " B"]:
    """The SMPL-X joint that carries each bone: explicit for the bones above, else the parent bone's."""
    explicit = {"root": 0, "spine05": 0, "pelvis.L": 0, "pelvis.R": 0}
    for name, bones in joint_bones().items():
        explicit |= dict.fromkeys(bones, joint(name))
    owner = np.zeros(len(rig.names), np.int64)
    for b, name in enumerate(rig.names):
        owner[b] = explicit[name] if name in explicit else owner[rig.parents[b]]
    return owner


def joint_weights(rig: Rig) -> Float64[np.ndarray, "V 55"]:
    """Skinning weights over the 55 joints for every vertex of the base mesh."""
    gather = np.zeros((len(rig.names), len(JOINT_NAMES)))
    gather[np.arange(len(rig.names)), bone_owner(rig)] = 1
    weights = rig.weights @ gather
    weights[weights.sum(1) < 1e-9, 0] = 1.0
    result: np.ndarray = weights / weights.sum(1, keepdims=True)
    return result
