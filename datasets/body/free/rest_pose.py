"""Turns MakeHuman's A-pose into the SMPL-X rest pose by constant bone rotations.

Arms horizontal with palms down, fingers straight, legs near vertical. The rotations are found once on a mean shape
and then held fixed, so the map from base vertices to rest vertices stays linear and every blendshape carries over
exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from lhmforge.datasets.body.free.makehuman import Rig
from lhmforge.datasets.body.free.skeleton import SIDES

PELVIS = np.array([0.0, -0.351, 0.012])  # where SMPL-X files have the pelvis, for every shape
_UP, _FRONT = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class RestPoseMap:
    """The linear map from displacements of the base mesh to displacements of the rest body and its bone heads."""

    rig: Rig
    rotations: Float64[np.ndarray, "B 3 3"]  # global, per bone
    vertex_rotations: Float64[np.ndarray, "V 3 3"]  # blended by the skinning weights

    def heads(self, vertices: Float64[np.ndarray, "K V 3"]) -> Float64[np.ndarray, "K B 3"]:
        """Bone heads in the rest pose, pelvis at the origin (linear in `vertices`)."""
        moved = chain_heads(self._flat(self.rig.head_of, vertices), self.rotations, self.rig.parents)
        centred: np.ndarray = moved - moved[:, [self.rig.index("spine04")]]
        return centred

    def vertices(self, vertices: Float64[np.ndarray, "K V 3"]) -> Float64[np.ndarray, "K V 3"]:
        """Vertices in the rest pose, pelvis at the origin (linear in `vertices`)."""
        heads = self._flat(self.rig.head_of, vertices)
        shift = self.heads(vertices) - np.einsum("bij,kbj->kbi", self.rotations, heads)
        turned = np.einsum("vij,kvj->kvi", self.vertex_rotations, vertices)
        moved: np.ndarray = turned + self._flat(self.rig.weights, shift)
        return moved

    @staticmethod
    def _flat(matrix: Float64[np.ndarray, "M N"], values: Float64[np.ndarray, "K N 3"]) -> Float64[np.ndarray, "K M 3"]:
        count = len(values)
        columns = np.swapaxes(values, 0, 1).reshape(values.shape[1], count * 3)
        return np.swapaxes((matrix @ columns).reshape(-1, count, 3), 0, 1)


def rest_pose_map(rig: Rig, mean_vertices: Float64[np.ndarray, "V 3"]) -> RestPoseMap:
    """Bone rotations found on the mean shape."""
    heads, tails = rig.head_of @ mean_vertices, rig.tail_of @ mean_vertices
    explicit: dict[str, Float64[np.ndarray, "3 3"]] = {}
    for _, letter, sign in SIDES:
        frames = _Side(rig=rig, heads=heads, tails=tails, letter=letter, sign=sign)
        explicit |= _arm(frames) | _leg(frames)
    rotations = np.zeros((len(rig.names), 3, 3))
    for b, name in enumerate(rig.names):
        inherited = rotations[rig.parents[b]] if rig.parents[b] >= 0 else np.eye(3)
        rotations[b] = explicit.get(name, inherited)
    blended = np.einsum("vb,bij->vij", rig.weights, rotations)
    return RestPoseMap(rig=rig, rotations=rotations, vertex_rotations=blended)


def chain_heads(
    heads: Float64[np.ndarray, "K B 3"], rotations: Float64[np.ndarray, "B 3 3"], parents: tuple[int, ...]
) -> Float64[np.ndarray, "K B 3"]:
    """Bone heads after turning every bone by its global rotation, root fixed."""
    moved = heads.copy()
    for b, parent in enumerate(parents):
        if parent >= 0:
            moved[:, b] = moved[:, parent] + (heads[:, b] - heads[:, parent]) @ rotations[parent].T
    return moved


def unit(vector: Float64[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
    """Vectors scaled to length one."""
    result: np.ndarray = vector / np.linalg.norm(vector, axis=-1, keepdims=True)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    rig: Rig
    heads: Float64[np.ndarray, "B 3"]
    tails: Float64[np.ndarray, "B 3"]
    letter: str
    sign: float

    def head(self, bone: str) -> Float64[np.ndarray, " 3"]:
        row: np.ndarray = self.heads[self.rig.index(f"{bone}.{self.letter}")]
        return row

    def tail(self, bone: str) -> Float64[np.ndarray, " 3"]:
        row: np.ndarray = self.tails[self.rig.index(f"{bone}.{self.letter}")]
        return row


def _about(axis: Float64[np.ndarray, " 3"], angle: float) -> Float64[np.ndarray, "3 3"]:
    matrix: np.ndarray = Rotation.from_rotvec(unit(axis) * angle).as_matrix()
    return matrix


def _frame(first: Float64[np.ndarray, " 3"], second: Float64[np.ndarray, " 3"]) -> Float64[np.ndarray, "3 3"]:
    x = unit(first)
    y = unit(second - x * (x @ second))
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _shortest(start: Float64[np.ndarray, " 3"], end: Float64[np.ndarray, " 3"]) -> Float64[np.ndarray, "3 3"]:
    axis = np.cross(unit(start), unit(end))
    return _about(axis, float(np.arctan2(np.linalg.norm(axis), unit(start) @ unit(end))))


def _arm(side: _Side) -> dict[str, Float64[np.ndarray, "3 3"]]:
    outward = np.array([side.sign, 0.0, 0.0])
    upper = unit(side.head("lowerarm01") - side.head("upperarm01"))
    fore = unit(side.head("wrist") - side.head("lowerarm01"))
    upper_turn = _frame(outward, _FRONT) @ _frame(upper, fore).T  # the elbow's hinge plane becomes horizontal
    hinge = np.cross(upper, fore)
    fore_turn = _frame(outward, np.cross(outward, _FRONT)) @ _frame(fore, hinge).T
    knuckles = side.head("finger2-1") - side.head("finger5-1")
    hand_turn = _frame(outward, _FRONT) @ _frame(side.head("finger3-1") - side.head("wrist"), knuckles).T
    between = hand_turn @ fore_turn.T
    twist = float(np.arctan2(between[2, 1] - between[1, 2], between[1, 1] + between[2, 2]))
    x_axis = np.array([1.0, 0.0, 0.0])
    turns = {
        "clavicle": _about(_FRONT, side.sign * np.deg2rad(10)),
        "shoulder01": _about(_FRONT, side.sign * np.deg2rad(18)),
        "upperarm01": upper_turn,
        "upperarm02": upper_turn,
        "lowerarm01": _about(x_axis, 0.3 * twist) @ fore_turn,  # forearm twist spread towards the wrist
        "lowerarm02": _about(x_axis, 0.8 * twist) @ fore_turn,
        "wrist": hand_turn,
    }
    turns |= _fingers(side, hand_turn)
    return {f"{name}.{side.letter}": turn for name, turn in turns.items()}


def _fingers(side: _Side, hand_turn: Float64[np.ndarray, "3 3"]) -> dict[str, Float64[np.ndarray, "3 3"]]:
    turns: dict[str, Float64[np.ndarray, "3 3"]] = {}
    for number in (2, 3, 4, 5):
        reach = hand_turn @ (side.tail(f"finger{number}-3") - side.head(f"finger{number}-1"))
        spread = 0.55 * np.arctan2(reach[2], side.sign * reach[0])
        target = np.array([side.sign * np.cos(spread), -0.02, np.sin(spread)])
        for i in (1, 2, 3):
            bone = f"finger{number}-{i}"
            turns[bone] = _shortest(hand_turn @ (side.tail(bone) - side.head(bone)), target) @ hand_turn
    # The thumb keeps its metacarpal; its two phalanges straighten half-way towards it.
    first, second, third = (
        unit(hand_turn @ (side.tail(f"finger1-{i}") - side.head(f"finger1-{i}"))) for i in (1, 2, 3)
    )
    middle = unit(first + second)
    turns["finger1-1"] = hand_turn
    turns["finger1-2"] = _shortest(second, middle) @ hand_turn
    turns["finger1-3"] = _shortest(third, 0.7 * middle + 0.3 * second) @ hand_turn
    return turns


def _leg(side: _Side) -> dict[str, Float64[np.ndarray, "3 3"]]:
    along = side.head("foot") - side.head("upperleg01")
    excess = float(np.arctan2(side.sign * along[0], -along[1])) - np.deg2rad(0.8)
    turn = _about(_FRONT, -side.sign * excess)
    bones = ("upperleg01", "upperleg02", "lowerleg01", "lowerleg02")
    return {f"{bone}.{side.letter}": turn for bone in bones} | {f"foot.{side.letter}": np.eye(3)}
