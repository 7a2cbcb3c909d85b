"""The three MediaPipe landmarkers as plain functions from an RGB crop to arrays: the only module that knows MediaPipe.

Each opens for a `with` block (its destructor must not run at interpreter exit) in image mode: no state between calls,
so a frame's result does not depend on the frames before it. Points are pixels of the crop.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.errors import BackendError

_MIN_CONFIDENCE = 0.3
_MAX_POSES = 2  # a neighbour in the crop must not displace the track's person


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseFound:
    """One person: 33 points, score = visibility x presence, metric points (camera axes, hip-centred), person mask."""

    points_px: Float32[np.ndarray, "33 2"]
    scores: Float32[np.ndarray, 33]
    landmarks_m: Float32[np.ndarray, "33 3"]
    mask: Float32[np.ndarray, "h w"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandFound:
    """One hand: wrist, then four points per finger from the thumb to the little finger."""

    points_px: Float32[np.ndarray, "21 2"]
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceFound:
    """One face: 478 mesh points and 52 ARKit blendshape coefficients in MediaPipe's order."""

    points_px: Float32[np.ndarray, "478 2"]
    blendshapes: Float32[np.ndarray, 52]


PoseFinder = Callable[[UInt8[np.ndarray, "h w 3"]], list[PoseFound]]
HandFinder = Callable[[UInt8[np.ndarray, "h w 3"]], list[HandFound]]
FaceFinder = Callable[[UInt8[np.ndarray, "h w 3"]], list[FaceFound]]


@contextlib.contextmanager
def open_pose(model: Path) -> Iterator[PoseFinder]:
    """Pose Landmarker with segmentation masks; raises `BackendError` for a file that is not such a model."""
    vision = _vision()
    options = vision.PoseLandmarkerOptions(
        base_options=_base(model),
        num_poses=_MAX_POSES,
        min_pose_detection_confidence=_MIN_CONFIDENCE,
        min_pose_presence_confidence=_MIN_CONFIDENCE,
        output_segmentation_masks=True,
    )
    with _created(vision.PoseLandmarker, options, model) as landmarker:

        def find(crop: UInt8[np.ndarray, "h w 3"]) -> list[PoseFound]:
            result = landmarker.detect(_image(crop))
            masks = result.segmentation_masks or []  # None when nobody was found
            rows = zip(result.pose_landmarks, result.pose_world_landmarks, masks, strict=True)
            return [
                PoseFound(
                    points_px=_points_px(points, crop),
                    scores=np.array([point.visibility * point.presence for point in points], np.float32),
                    landmarks_m=np.array([(point.x, point.y, point.z) for point in world], np.float32),
                    # A copy: the view belongs to MediaPipe's buffer.
                    mask=np.array(mask.numpy_view(), np.float32).reshape(crop.shape[:2]),
                )
                for points, world, mask in rows
            ]

        yield find


@contextlib.contextmanager
def open_hands(model: Path) -> Iterator[HandFinder]:
    """Hand Landmarker, two hands; raises `BackendError` for a file that is not such a model."""
    vision = _vision()
    options = vision.HandLandmarkerOptions(
        base_options=_base(model),
        num_hands=2,
        min_hand_detection_confidence=_MIN_CONFIDENCE,
        min_hand_presence_confidence=_MIN_CONFIDENCE,
    )
    with _created(vision.HandLandmarker, options, model) as landmarker:

        def find(crop: UInt8[np.ndarray, "h w 3"]) -> list[HandFound]:
            result = landmarker.detect(_image(crop))
            return [
                HandFound(points_px=_points_px(points, crop), score=float(side[0].score))
                for points, side in zip(result.hand_landmarks, result.handedness, strict=True)
            ]

        yield find


@contextlib.contextmanager
def open_face(model: Path) -> Iterator[FaceFinder]:
    """Face Landmarker with blendshapes, one face; raises `BackendError` for a file that is not such a model."""
    vision = _vision()
    options = vision.FaceLandmarkerOptions(
        base_options=_base(model),
        num_faces=1,
        min_face_detection_confidence=_MIN_CONFIDENCE,
        min_face_presence_confidence=_MIN_CONFIDENCE,
        output_face_blendshapes=True,
    )
    with _created(vision.FaceLandmarker, options, model) as landmarker:

        def find(crop: UInt8[np.ndarray, "h w 3"]) -> list[FaceFound]:
            result = landmarker.detect(_image(crop))
            return [
                FaceFound(
                    points_px=_points_px(points, crop),
                    blendshapes=np.array([shape.score for shape in shapes], np.float32),
                )
                for points, shapes in zip(result.face_landmarks, result.face_blendshapes, strict=True)
            ]

        yield find


def _vision() -> Any:
    os.environ.setdefault("GLOG_minloglevel", "2")
    try:
        from mediapipe.tasks.python import vision
    except ImportError as error:
        raise BackendError(f"the mediapipe backends need the package mediapipe: {error}") from error
    return vision


def _base(model: Path) -> Any:
    from mediapipe.tasks.python import BaseOptions

    return BaseOptions(model_asset_path=str(model), delegate=BaseOptions.Delegate.CPU)


def _created(landmarker: Any, options: Any, model: Path) -> Any:
    try:
        return landmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        raise BackendError(f"{model} is not a MediaPipe {landmarker.__name__} task file: {error}") from error


def _image(crop: UInt8[np.ndarray, "h w 3"]) -> Any:
    import mediapipe

    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(crop))


def _points_px(points: Any, crop: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "K 2"]:
    height, width = crop.shape[:2]
    return np.array([(point.x * width, point.y * height) for point in points], np.float32)
