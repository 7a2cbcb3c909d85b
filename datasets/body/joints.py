"""The 55 joints of SMPL-X: names, tree, and the groups that its pose parameters are stored in."""

from __future__ import annotations

import itertools

_FINGERS = ("index", "middle", "pinky", "ring", "thumb")

BODY_JOINTS = (
    "pelvis",
    "left_hip",
    "right_hip",
    "spine1",
    "left_knee",
    "right_knee",
    "spine2",
    "left_ankle",
    "right_ankle",
    "spine3",
    "left_foot",
    "right_foot",
    "neck",
    "left_collar",
    "right_collar",
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
)
LEFT_HAND_JOINTS = tuple(f"left_{finger}{i}" for finger in _FINGERS for i in (1, 2, 3))
RIGHT_HAND_JOINTS = tuple(f"right_{finger}{i}" for finger in _FINGERS for i in (1, 2, 3))
JOINT_NAMES = (*BODY_JOINTS, "jaw", "left_eye", "right_eye", *LEFT_HAND_JOINTS, *RIGHT_HAND_JOINTS)
NUM_JOINTS = len(JOINT_NAMES)


def joint(name: str) -> int:
    """Index of a joint by name."""
    return JOINT_NAMES.index(name)


def _parents() -> tuple[int, ...]:
    chains = [
        ("pelvis", "left_hip", "left_knee", "left_ankle", "left_foot"),
        ("pelvis", "right_hip", "right_knee", "right_ankle", "right_foot"),
        ("pelvis", "spine1", "spine2", "spine3", "neck", "head", "jaw"),
        ("spine3", "left_collar", "left_shoulder", "left_elbow", "left_wrist"),
        ("spine3", "right_collar", "right_shoulder", "right_elbow", "right_wrist"),
        ("head", "left_eye"),
        ("head", "right_eye"),
    ]
    for side in ("left", "right"):
        chains += [(f"{side}_wrist", *(f"{side}_{finger}{i}" for i in (1, 2, 3))) for finger in _FINGERS]
    parents = [-1] * NUM_JOINTS
    for chain in chains:
        for above, below in itertools.pairwise(chain):
            parents[joint(below)] = joint(above)
    return tuple(parents)


PARENTS = _parents()
