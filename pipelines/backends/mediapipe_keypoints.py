"""Keypoints: MediaPipe pose on the person's crop, then hands and face on crops around wrists and head.

Writes COCO-WholeBody 133 (mapping: `mediapipe_wholebody`), the 33 metric landmarks, 52 blendshapes and 478 face points.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.asset_table import asset
from lhmforge.datasets.assets import asset_path
from lhmforge.datasets.records import Keypoints, Track
from lhmforge.pipelines.backends import mediapipe_wholebody as mapping
from lhmforge.pipelines.backends.mediapipe_pose import find_person
from lhmforge.pipelines.backends.mediapipe_tasks import (
    FaceFinder,
    FaceFound,
    HandFinder,
    HandFound,
    PoseFinder,
    PoseFound,
    open_face,
    open_hands,
    open_pose,
)
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.weights import embedded_or_user, embedded_or_user_digest
from lhmforge.pipelines.boxes import window_around

_PART_CROP_PX = 256  # part crops are brought to this side: small hands and faces are enlarged
_MIN_PART_PX = 16
_HAND_REACH = 0.35  # hand centre beyond the wrist, in forearm lengths
_HAND_SIDE = 1.9  # crop side in forearm lengths
_MIN_FOREARM = 0.11  # of the box height: a foreshortened forearm must not shrink the crop
_HEAD_SIDE = 0.26  # smallest head crop side, of the box height seen
_SEEN = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finders:
    pose: PoseFinder
    hands: HandFinder
    face: FaceFinder


@dataclass(frozen=True, slots=True, kw_only=True)
class _FrameKeypoints:
    points: Float32[np.ndarray, "133 3"]
    landmarks_m: Float32[np.ndarray, "33 3"]
    landmark_scores: Float32[np.ndarray, 33]
    blendshapes: Float32[np.ndarray, 52]
    face_px: Float32[np.ndarray, "478 2"]


class MediaPipeKeypoints:
    """`KeypointEstimator`; frames without a fitting pose get scores of 0, without a face the face scores are 0 too."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec

    def estimate(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Keypoints:
        with contextlib.ExitStack() as stack:
            finders = _Finders(
                pose=stack.enter_context(open_pose(embedded_or_user(self._spec, "pose_landmarker"))),
                hands=stack.enter_context(open_hands(asset_path("hand_landmarker"))),
                face=stack.enter_context(open_face(asset_path("face_landmarker"))),
            )
            rows = [_estimate(frame, box, finders) for frame, box in zip(frames, track.boxes_px, strict=True)]
        return Keypoints(
            points_px=np.stack([row.points[:, :2] for row in rows]),
            scores=np.stack([row.points[:, 2] for row in rows]),
            landmark_set="mediapipe_33",
            landmarks_m=np.stack([row.landmarks_m for row in rows]),
            landmark_scores=np.stack([row.landmark_scores for row in rows]),
            blendshapes=np.stack([row.blendshapes for row in rows]),
            face_px=np.stack([row.face_px for row in rows]),
        )

    def weight_digests(self) -> Sequence[str]:
        pose = embedded_or_user_digest(self._spec, "pose_landmarker")
        return (pose, asset("hand_landmarker").sha256, asset("face_landmarker").sha256)


def mediapipe_keypoints(spec: BackendSpec) -> MediaPipeKeypoints:
    """Factory of the embedded default; `spec.weights` may name another pose landmarker (lite, heavy)."""
    return MediaPipeKeypoints(spec)


def _estimate(frame: UInt8[np.ndarray, "H W 3"], box: Float32[np.ndarray, 4], finders: _Finders) -> _FrameKeypoints:
    found = find_person(frame, box, finders.pose)
    if found is None:
        return _FrameKeypoints(
            points=np.zeros((133, 3), np.float32),
            landmarks_m=np.zeros((33, 3), np.float32),
            landmark_scores=np.zeros(33, np.float32),
            blendshapes=np.zeros(52, np.float32),
            face_px=np.zeros((478, 2), np.float32),
        )
    pose = found[0]
    in_frame = ((pose.points_px >= 0) & (pose.points_px < [frame.shape[1], frame.shape[0]])).all(axis=1)
    scores = np.where(in_frame, pose.scores, 0).astype(np.float32)
    face = _face(frame, pose, scores, box, finders.face)
    left = _hand(frame, pose, scores, (mapping.LEFT_WRIST, mapping.LEFT_ELBOW), box, finders.hands)
    right = _hand(frame, pose, scores, (mapping.RIGHT_WRIST, mapping.RIGHT_ELBOW), box, finders.hands)
    return _FrameKeypoints(
        points=mapping.to_wholebody(pose.points_px, scores, face, left, right),
        landmarks_m=pose.landmarks_m,
        landmark_scores=pose.scores,
        blendshapes=face.blendshapes if face else np.zeros(52, np.float32),
        face_px=face.points_px if face else np.zeros((478, 2), np.float32),
    )


def _face(
    frame: UInt8[np.ndarray, "H W 3"],
    pose: PoseFound,
    scores: Float32[np.ndarray, 33],
    box: Float32[np.ndarray, 4],
    finder: FaceFinder,
) -> FaceFound | None:
    """The face around the pose's head points, refused when it lies elsewhere in the crop."""
    head = pose.points_px[mapping.HEAD]
    if float(scores[mapping.HEAD].max()) < _SEEN:
        return None
    spread = float((head.max(axis=0) - head.min(axis=0)).max())
    side = max(2.4 * spread, _HEAD_SIDE * min(float(box[3] - box[1]), 3 * float(box[2] - box[0])))
    middle = (head.max(axis=0) + head.min(axis=0)) / 2
    cropped = _part_crop(frame, middle, side)
    if cropped is None:
        return None
    crop, origin, scale = cropped
    for face in finder(crop):
        points = face.points_px * scale + origin
        if float(np.linalg.norm(points.mean(axis=0) - middle)) <= 0.3 * side:
            return FaceFound(points_px=points.astype(np.float32), blendshapes=face.blendshapes)
    return None


def _hand(
    frame: UInt8[np.ndarray, "H W 3"],
    pose: PoseFound,
    scores: Float32[np.ndarray, 33],
    wrist_elbow: tuple[int, int],
    box: Float32[np.ndarray, 4],
    finder: HandFinder,
) -> HandFound | None:
    """The hand whose wrist lies nearest to the pose's wrist; which hand it is, the pose says."""
    wrist, elbow = wrist_elbow
    if scores[wrist] < _SEEN:
        return None
    forearm = pose.points_px[wrist] - pose.points_px[elbow]
    length = max(float(np.linalg.norm(forearm)), _MIN_FOREARM * float(box[3] - box[1]))
    cropped = _part_crop(frame, pose.points_px[wrist] + _HAND_REACH * forearm, _HAND_SIDE * length)
    if cropped is None:
        return None
    crop, origin, scale = cropped
    best: HandFound | None = None
    nearest = 0.4 * length
    for hand in finder(crop):
        points = (hand.points_px * scale + origin).astype(np.float32)
        distance = float(np.linalg.norm(points[0] - pose.points_px[wrist]))
        if distance < nearest:
            best, nearest = HandFound(points_px=points, score=hand.score), distance
    return best


def _part_crop(
    frame: UInt8[np.ndarray, "H W 3"], middle: Float32[np.ndarray, 2], side: float
) -> tuple[UInt8[np.ndarray, "h w 3"], Float32[np.ndarray, 2], float] | None:  # crop, origin in px, px per crop px
    """A square part of the frame at a fixed size; None when it is too small to show anything."""
    corner = np.concatenate([middle - side / 2, middle + side / 2]).astype(np.float32)
    x0, y0, x1, y1 = window_around(corner, padding=1.0, width=frame.shape[1], height=frame.shape[0])
    if min(x1 - x0, y1 - y0) < _MIN_PART_PX:
        return None
    scale = max(x1 - x0, y1 - y0) / _PART_CROP_PX
    size = max(1, round((x1 - x0) / scale)), max(1, round((y1 - y0) / scale))
    crop = cv2.resize(np.ascontiguousarray(frame[y0:y1, x0:x1]), size, interpolation=cv2.INTER_LINEAR)
    return crop, np.array([x0, y0], np.float32), scale
