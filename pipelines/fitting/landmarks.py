"""Which points of the body a keypoint means: the solver's points, their places in each keypoint order, their offsets.

Detectors do not mark joint centres: a "hip" lies in front of and below the joint, a "foot index" at the toe tip. Each
source of keypoints therefore has a table of rest-frame offsets, measured by rendering the body and running the
detector (`benchmarks/calibrate_landmarks.py`), keyed by the mesh topology with a general table ("any") behind it.
Left is the subject's left; tables hold the left side and the midline, the right side mirrors x.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import BodyError
from lhmforge.pipelines.fitting.keypoint_body import (
    Attachment,
    BodyPoint,
    KeypointBody,
    SurfacePoint,
    build_keypoint_body,
)

_TABLE_VERSION = 1
# How far apart hip landmarks lie relative to the shoulder joints, on the body that was measured.
_REFERENCE_HIP_TO_SHOULDER = 0.585


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverPoint:
    """A point used for fitting: its place in COCO-WholeBody 133 and in MediaPipe's 33 (-1: absent), and its trust."""

    name: str
    wholebody: int
    mediapipe: int
    weight: float = 1.0


SOLVER_POINTS = (
    SolverPoint(name="nose", wholebody=0, mediapipe=0),
    SolverPoint(name="left_eye", wholebody=1, mediapipe=2, weight=0.5),
    SolverPoint(name="right_eye", wholebody=2, mediapipe=5, weight=0.5),
    SolverPoint(name="left_ear", wholebody=3, mediapipe=7),
    SolverPoint(name="right_ear", wholebody=4, mediapipe=8),
    SolverPoint(name="left_shoulder", wholebody=5, mediapipe=11),
    SolverPoint(name="right_shoulder", wholebody=6, mediapipe=12),
    SolverPoint(name="left_elbow", wholebody=7, mediapipe=13),
    SolverPoint(name="right_elbow", wholebody=8, mediapipe=14),
    SolverPoint(name="left_wrist", wholebody=9, mediapipe=15),
    SolverPoint(name="right_wrist", wholebody=10, mediapipe=16),
    SolverPoint(name="left_hip", wholebody=11, mediapipe=23),
    SolverPoint(name="right_hip", wholebody=12, mediapipe=24),
    SolverPoint(name="left_knee", wholebody=13, mediapipe=25),
    SolverPoint(name="right_knee", wholebody=14, mediapipe=26),
    SolverPoint(name="left_ankle", wholebody=15, mediapipe=27),
    SolverPoint(name="right_ankle", wholebody=16, mediapipe=28),
    SolverPoint(name="left_big_toe", wholebody=17, mediapipe=31),
    SolverPoint(name="left_small_toe", wholebody=18, mediapipe=-1, weight=0.5),
    SolverPoint(name="left_heel", wholebody=19, mediapipe=29),
    SolverPoint(name="right_big_toe", wholebody=20, mediapipe=32),
    SolverPoint(name="right_small_toe", wholebody=21, mediapipe=-1, weight=0.5),
    SolverPoint(name="right_heel", wholebody=22, mediapipe=30),
    SolverPoint(name="left_mouth", wholebody=77, mediapipe=9, weight=0.5),
    SolverPoint(name="right_mouth", wholebody=71, mediapipe=10, weight=0.5),
    SolverPoint(name="left_index", wholebody=96, mediapipe=19, weight=0.5),
    SolverPoint(name="right_index", wholebody=117, mediapipe=20, weight=0.5),
    SolverPoint(name="left_pinky", wholebody=108, mediapipe=17, weight=0.5),
    SolverPoint(name="right_pinky", wholebody=129, mediapipe=18, weight=0.5),
    SolverPoint(name="left_thumb", wholebody=93, mediapipe=21, weight=0.5),
    SolverPoint(name="right_thumb", wholebody=114, mediapipe=22, weight=0.5),
)
POINT_NAMES = tuple(point.name for point in SOLVER_POINTS)
WHOLEBODY_INDEX = np.array([point.wholebody for point in SOLVER_POINTS])
MEDIAPIPE_INDEX = np.array([point.mediapipe for point in SOLVER_POINTS])
POINT_WEIGHTS = np.array([point.weight for point in SOLVER_POINTS])
MIRRORED = np.array(
    [
        POINT_NAMES.index(_mirror)
        for _mirror in (
            name.replace("left", "?").replace("right", "left").replace("?", "right") for name in POINT_NAMES
        )
    ]
)

# Where a keypoint lies when its definition is the anatomical one: joints, and vertices that the body file names.
_JOINT_OF = {
    "index": "index1",
    "pinky": "pinky1",
    "thumb": "thumb2",
}
_VERTEX_NAMES = ("nose", "eye", "ear", "big_toe", "small_toe", "heel")
# Mouth corners relative to the jaw joint, millimetres (left); files do not name these vertices.
_MOUTH_OFFSET_M = (0.024, -0.032, 0.075)


def point_index(name: str) -> int:
    """Position of a solver point by name."""
    return POINT_NAMES.index(name)


def solver_body(model: BodyModel, landmark_set: str) -> KeypointBody:
    """The 22-joint tree with all solver points as `landmark_set`'s detector marks them on this body."""
    return build_keypoint_body(model, solver_points(model, landmark_set))


def solver_points(model: BodyModel, landmark_set: str) -> tuple[BodyPoint, ...]:
    """One body point per `SOLVER_POINTS` entry; "none" (no known detector) takes the anatomical definition."""
    calibrated = _calibrated(model, landmark_set)
    return tuple(calibrated.get(name) or _anatomical(model, name) for name in POINT_NAMES)


def _anatomical(model: BodyModel, name: str) -> BodyPoint:
    side, _, part = name.rpartition("left_") if "left_" in name else name.rpartition("right_")
    side = name.split("_", 1)[0]
    if name == "nose" or part in _VERTEX_NAMES:
        vertices = dict(model.extra_vertices)
        if name in vertices:
            return SurfacePoint(vertex_ids=(vertices[name],), vertex_weights=(1.0,))
        raise BodyError(f"{model.source}: the body names no vertex {name!r}; it has {sorted(vertices)}")
    if part == "mouth":
        x, y, z = _MOUTH_OFFSET_M
        return Attachment(joint=joint("jaw"), frame=joint("head"), offset_m=(x if side == "left" else -x, y, z))
    number = joint(f"{side}_{_JOINT_OF.get(part, part)}")
    carrier = joint(f"{side}_wrist") if part in _JOINT_OF else number
    return Attachment(joint=number, frame=carrier)


def _calibrated(model: BodyModel, landmark_set: str) -> dict[str, BodyPoint]:
    tables = [table for table in _read_tables() if table.source == landmark_set]
    exact = [table for table in tables if model.topology_digest in table.topologies]
    general = [table for table in tables if "any" in table.topologies]
    points: dict[str, BodyPoint] = {}
    for table in (*general, *exact):
        for row in table.rows:
            points |= dict(row.both_sides())
    if not exact and general:
        points |= _general_hips(model, points)
    return points


def _general_hips(model: BodyModel, points: dict[str, BodyPoint]) -> dict[str, BodyPoint]:
    """Hip points for a body whose hip joints may sit elsewhere (licensed SMPL-X: 5 cm nearer to the middle).

    Detectors mark hips by how wide the body looks, so the lateral place scales with the shoulders instead.
    """
    rest = model.joints_template.double().numpy()
    half_width = _REFERENCE_HIP_TO_SHOULDER * (rest[joint("left_shoulder"), 0] - rest[joint("right_shoulder"), 0]) / 2
    hips: dict[str, BodyPoint] = {}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        table_point = points[f"{side}_hip"]
        assert isinstance(table_point, Attachment)
        lateral = sign * half_width - rest[joint(f"{side}_hip"), 0]
        hips[f"{side}_hip"] = Attachment(
            joint=table_point.joint, frame=table_point.frame, offset_m=(lateral, *table_point.offset_m[1:])
        )
    return hips


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    name: str
    joint: str
    frame: str
    offset_mm: tuple[float, float, float]

    def both_sides(self) -> Sequence[tuple[str, Attachment]]:
        x, y, z = (value / 1000 for value in self.offset_mm)
        left = Attachment(joint=joint(self.joint), frame=joint(self.frame), offset_m=(x, y, z))
        if not self.name.startswith("left_"):
            return [(self.name, left)]
        other = [text.replace("left_", "right_") for text in (self.name, self.joint, self.frame)]
        return [
            (self.name, left),
            (other[0], Attachment(joint=joint(other[1]), frame=joint(other[2]), offset_m=(-x, y, z))),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    source: str
    topologies: tuple[str, ...]
    rows: tuple[_Row, ...]


def _read_tables() -> tuple[_Table, ...]:
    text = resources.files("lhmforge.pipelines.fitting").joinpath("landmark_offsets.json").read_text("utf-8")
    content = json.loads(text)
    assert content["version"] == _TABLE_VERSION
    return tuple(
        _Table(
            source=table["source"],
            topologies=tuple(table["topologies"]),
            rows=tuple(
                _Row(
                    name=name,
                    joint=row[0],
                    frame=row[1],
                    offset_mm=(float(row[2][0]), float(row[2][1]), float(row[2][2])),
                )
                for name, row in table["points"].items()
            ),
        )
        for table in content["tables"]
    )
