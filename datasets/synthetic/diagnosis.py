"""What is wrong with a fit, in one sentence made from its numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from lhmforge.datasets.body.joints import BODY_JOINTS
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.synthetic.pose_errors import camera_joints, similarity_aligned

_MM = 1000.0
_MIRRORED = np.array(
    [
        BODY_JOINTS.index(name.replace("left", "?").replace("right", "left").replace("?", "right"))
        for name in BODY_JOINTS
    ]
)
_PARTS = {
    "left arm": ("left_elbow", "left_wrist"),
    "right arm": ("right_elbow", "right_wrist"),
    "left leg": ("left_knee", "left_ankle", "left_foot"),
    "right leg": ("right_knee", "right_ankle", "right_foot"),
    "head": ("neck", "head"),
    "trunk": ("spine1", "spine2", "spine3", "left_shoulder", "right_shoulder"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameDiagnosis:
    """Numbers of one frame: errors in millimetres, pelvis aligned; depth is along the optical axis, fit minus truth."""

    mpjpe_mm: float
    pa_mpjpe_mm: float
    orientation_deg: float
    in_picture_mm: float  # mean error across the optical axis
    depth_mm: float  # mean error along it
    distance_mm: float  # the whole body's, fit minus truth
    size_percent: float  # of the skeleton, fit against truth
    part_mm: tuple[tuple[str, float], ...]  # largest first
    part_lean_mm: tuple[tuple[str, float], ...]  # along the optical axis, in the order of `part_mm`; below 0: nearer
    exchanged_mm: float  # MPJPE were left and right of the fit exchanged
    matte_iou: float

    @property
    def sentence(self) -> str:
        """What a person should look for in the picture."""
        clauses = [self._whole_body(), self._limbs(), self._direction(), *self._remarks()]
        return f"MPJPE {self.mpjpe_mm:.0f} mm, aligned {self.pa_mpjpe_mm:.0f}: " + "; ".join(c for c in clauses if c)

    def _whole_body(self) -> str:
        if self.orientation_deg > 120:
            return f"the body faces the wrong way ({self.orientation_deg:.0f} degrees off)"
        if self.exchanged_mm < 0.7 * self.mpjpe_mm:
            return f"left and right are exchanged (exchanging them back leaves {self.exchanged_mm:.0f} mm)"
        if self.orientation_deg > 25:
            return f"the pelvis is turned by {self.orientation_deg:.0f} degrees"
        return ""

    def _limbs(self) -> str:
        (first, error), (second, other) = self.part_mm[:2]
        text = f"the {first} is off by {error:.0f} mm"
        if other > 0.7 * error:
            return f"{text} and the {second} by {other:.0f}"
        return f"{text}, the other parts by at most {other:.0f}"

    def _direction(self) -> str:
        if self.in_picture_mm >= 1.5 * self.depth_mm:
            return f"most of it is to be seen in the picture ({self.in_picture_mm:.0f} mm; depth {self.depth_mm:.0f})"
        if self.depth_mm < 1.5 * self.in_picture_mm:
            return f"it is as wrong in the picture ({self.in_picture_mm:.0f} mm) as in depth ({self.depth_mm:.0f})"
        lean = self.part_lean_mm[0][1]
        side = "too near the camera" if lean < 0 else "too far from the camera"
        return f"nearly all of it is depth ({self.depth_mm:.0f} mm, across {self.in_picture_mm:.0f}), {side}"

    def _remarks(self) -> list[str]:
        remarks = []
        if abs(self.size_percent) > 5:
            remarks.append(
                f"the skeleton is {abs(self.size_percent):.0f} % too {'large' if self.size_percent > 0 else 'small'}"
            )
        if self.matte_iou < 0.9:
            remarks.append(f"the matte is wrong too (IoU {self.matte_iou:.2f})")
        return remarks


def diagnose(
    body: BodyModel,
    estimate: BodyParams,
    truth: BodyParams,
    world_to_camera: Float64[np.ndarray, "1 4 4"],
    *,
    orientation_deg: float,
    matte_iou: float,
) -> FrameDiagnosis:
    """Numbers of a single frame (`estimate` and `truth` hold one); `truth` is in camera coordinates."""
    fitted = camera_joints(body, estimate, world_to_camera)[0]
    wanted = camera_joints(body, truth, np.eye(4)[None])[0]
    difference = (fitted - fitted[0]) - (wanted - wanted[0])
    error = np.linalg.norm(difference, axis=-1)
    exchanged = np.linalg.norm((fitted - fitted[0])[_MIRRORED] - (wanted - wanted[0]), axis=-1)
    index = {part: [BODY_JOINTS.index(name) for name in names] for part, names in _PARTS.items()}
    parts = sorted(((part, _MM * float(error[rows].mean())) for part, rows in index.items()), key=lambda pair: -pair[1])
    return FrameDiagnosis(
        mpjpe_mm=_MM * float(error.mean()),
        pa_mpjpe_mm=_MM * float(np.linalg.norm(similarity_aligned(fitted, wanted) - wanted, axis=-1).mean()),
        orientation_deg=orientation_deg,
        in_picture_mm=_MM * float(np.linalg.norm(difference[:, :2], axis=-1).mean()),
        depth_mm=_MM * float(np.abs(difference[:, 2]).mean()),
        distance_mm=_MM * float(fitted[0, 2] - wanted[0, 2]),
        size_percent=100 * (_bone_length(fitted) / _bone_length(wanted) - 1),
        part_mm=tuple(parts),
        part_lean_mm=tuple((part, _MM * float(difference[index[part], 2].mean())) for part, _ in parts),
        exchanged_mm=_MM * float(exchanged.mean()),
        matte_iou=matte_iou,
    )


def _bone_length(joints: Float64[np.ndarray, "22 3"]) -> float:
    """Shin, thigh, upper arm and forearm of both sides: they do not depend on the pose."""
    chains = (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"))
    return float(
        sum(
            np.linalg.norm(joints[BODY_JOINTS.index(f"{side}_{a}")] - joints[BODY_JOINTS.index(f"{side}_{b}")])
            for side in ("left", "right")
            for a, b in chains
        )
    )
