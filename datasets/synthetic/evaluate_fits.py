"""Fitted tracks, accepted or not, against the truth: what the gate should have known, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.codecs import decode_png
from lhmforge.datasets.records import AlphaCrop, FittedTrack
from lhmforge.datasets.synthetic.pose_errors import aligned_errors_mm, camera_joints, joint_angles_rad
from lhmforge.datasets.synthetic.truth import ClipTruth

BAD_PA_MPJPE_MM, BAD_MATTE_IOU, BAD_ORIENTATION_DEG = 80.0, 0.9, 60.0
_MM = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitEvaluation:
    """`N` frames of a fitted track against the true person that it follows."""

    key: str
    source_id: str
    person: int
    frame_indices: Int64[np.ndarray, " N"]
    mpjpe_mm: Float64[np.ndarray, " N"]
    pa_mpjpe_mm: Float64[np.ndarray, " N"]
    orientation_deg: Float64[np.ndarray, " N"]
    matte_iou: Float64[np.ndarray, " N"]
    joint_angles_rad: Float64[np.ndarray, "N 22"]
    reported_rad: Float64[np.ndarray, " N"]  # the fit's own `pose_uncertainty_rad`
    reprojection_share: Float64[np.ndarray, " N"]  # the fit's own error, of the box height; NaN: nothing seen
    visible_share: Float64[np.ndarray, " N"]

    @property
    def angle_rad(self) -> Float64[np.ndarray, " N"]:
        """Root mean square over the joints: what `reported_rad` estimates."""
        result: np.ndarray = np.sqrt((self.joint_angles_rad**2).mean(1))
        return result

    @property
    def bad_frames(self) -> np.ndarray:
        """bool [N]: frames that nobody should train on, by the truth alone."""
        wrong_pose = (self.pa_mpjpe_mm > BAD_PA_MPJPE_MM) | (self.orientation_deg > BAD_ORIENTATION_DEG)
        result: np.ndarray = wrong_pose | (self.matte_iou < BAD_MATTE_IOU)
        return result

    @property
    def is_bad(self) -> bool:
        """Whether at least half of the frames are bad."""
        return bool(self.bad_frames.mean() >= 0.5)


def evaluate_fit(fitted: FittedTrack, truth: ClipTruth, person: int, body: BodyModel) -> FitEvaluation:
    """Compares every frame of a track with one person; `fitted` and the truth are in the camera frame."""
    frames = fitted.track.frame_indices
    true_person = truth.persons[person]
    true_body = true_person.body.select(frames)
    still = np.tile(np.eye(4), (len(frames), 1, 1))
    joints, true_joints = camera_joints(body, fitted.body, still), camera_joints(body, true_body, still)
    centred, true_centred = joints - joints[:, :1], true_joints - true_joints[:, :1]
    angles = joint_angles_rad(fitted.body, true_body)
    heights = np.maximum(np.ptp(fitted.track.boxes_px[:, 1::2], axis=1), 1.0)
    overlaps = [
        overlap(full_matte(crop, true_alpha.shape), true_alpha)
        for crop, true_alpha in zip(
            fitted.keypointed.matted.alphas, (true_person.alpha(int(frame)) for frame in frames), strict=True
        )
    ]
    return FitEvaluation(
        key=fitted.key,
        source_id=fitted.track.clip.video.source.source_id,
        person=person,
        frame_indices=frames,
        mpjpe_mm=_MM * np.linalg.norm(centred - true_centred, axis=-1).mean(1),
        pa_mpjpe_mm=aligned_errors_mm(joints, true_joints),
        orientation_deg=np.degrees(angles[:, 0]),
        matte_iou=np.array(overlaps),
        joint_angles_rad=angles,
        reported_rad=fitted.pose_uncertainty_rad.astype(np.float64),
        reprojection_share=(fitted.reprojection_px / heights).astype(np.float64),
        visible_share=true_person.visible_share[frames].astype(np.float64),
    )


def full_matte(crop: AlphaCrop, shape: tuple[int, ...]) -> UInt8[np.ndarray, "H W"]:
    """A stored matte in its whole frame."""
    alpha = np.zeros(shape[:2], np.uint8)
    x0, y0, x1, y1 = crop.window_px
    alpha[y0:y1, x0:x1] = decode_png(crop.png, what="matte")
    return alpha


def overlap(alpha: UInt8[np.ndarray, "H W"], truth: UInt8[np.ndarray, "H W"]) -> float:
    """Intersection over union at one half; two empty mattes agree."""
    a, b = alpha >= 128, truth >= 128
    union = int((a | b).sum())
    return float((a & b).sum()) / union if union else 1.0
