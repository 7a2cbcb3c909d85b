"""Quality scores of a fitted track, from its records and, for sharpness, a few decoded frames."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float64, Int64

from lhmforge.datasets.body.joints import BODY_JOINTS, joint
from lhmforge.datasets.body.lbs import axis_angle_to_matrix, joint_chain
from lhmforge.datasets.body.model import BodyModel, full_pose
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.records import FittedTrack, TrackScores
from lhmforge.pipelines.fitting.silhouette import body_mask, intersection_over_union, matte_mask
from lhmforge.pipelines.stage import StageContext

_SEEN_SCORE = 0.3
_NUM_COCO_BODY = 17
_FACE_M, _HAND_M = 0.22, 0.18
_REFERENCE_FPS = 30.0
_MASK_HEIGHT = 192
_SHARPNESS_HEIGHT = 256


def score_track(
    fitted: FittedTrack, model: BodyModel, context: StageContext, *, mask_frames: int, sharpness_frames: int
) -> TrackScores:
    """All scores; `mask_frames` and `sharpness_frames` frames, spread evenly, stand for the track where it costs."""
    track, video = fitted.track, fitted.track.clip.video
    times = track.frame_indices / video.fps
    boxes = track.boxes_px.astype(np.float64)
    heights = boxes[:, 3] - boxes[:, 1]
    joints = _joints(fitted, model)
    focal = float(fitted.intrinsics[0, 0])
    depth = np.maximum(joints[..., 2], 0.1)
    hands = np.minimum(depth[:, joint("left_wrist")], depth[:, joint("right_wrist")])
    return TrackScores(
        num_frames=float(len(times)),
        duration_s=float(times[-1] - times[0]) + _typical_step(times, 1 / video.fps),
        detection=float(track.scores.mean()),
        reprojection=_nanmedian(fitted.reprojection_px / np.maximum(heights, 1.0)),
        matte_iou=_matte_iou(fitted, model, mask_frames),
        jitter=_jitter(joints, times),
        coverage=_coverage(fitted),
        height_px=float(np.median(heights)),
        face_px=float(np.median(_FACE_M * focal / depth[:, joint("head")])),
        hand_px=float(np.median(_HAND_M * focal / hands)),
        sharpness=_sharpness(fitted, context, sharpness_frames),
        motion=_motion(joints, times),
        view_rad=_view(fitted),
        shape_norm=float(np.sqrt(np.mean(fitted.body.betas.astype(np.float64) ** 2))),
    )


def spread_frames(num_frames: int, count: int) -> Int64[np.ndarray, " M"]:
    """At most `count` frame positions, evenly spread, first and last included."""
    return np.unique(np.linspace(0, num_frames - 1, min(count, num_frames)).round().astype(np.int64))


def _joints(fitted: FittedTrack, model: BodyModel) -> Float64[np.ndarray, "N 22 3"]:
    pieces = []
    for first in range(0, fitted.body.num_frames, 64):
        frames = np.arange(first, min(first + 64, fitted.body.num_frames))
        pieces.append(_pose_joints(fitted.body.select(frames), model))
    return np.concatenate(pieces)[:, : len(BODY_JOINTS)]


def _pose_joints(params: BodyParams, model: BodyModel) -> Float64[np.ndarray, "N 55 3"]:
    rest = model.joints_template.double() + model.joints_shapedirs.double() @ torch.from_numpy(params.betas).double()
    rotations = axis_angle_to_matrix(torch.from_numpy(full_pose(params)).double())
    chain = joint_chain(rotations, rest[None].expand(params.num_frames, -1, -1), model.parents)
    result: np.ndarray = chain[..., :3, 3].numpy() + params.transl[:, None].astype(np.float64)
    return result


def _typical_step(times: Float64[np.ndarray, " N"], default: float) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else default


def _nanmedian(values: np.ndarray) -> float:
    return float(np.median(values[np.isfinite(values)])) if np.isfinite(values).any() else float("nan")


def _matte_iou(fitted: FittedTrack, model: BodyModel, count: int) -> float:
    return _nanmedian(matte_overlaps(fitted, model, spread_frames(len(fitted.track.frame_indices), count)))


def matte_overlaps(fitted: FittedTrack, model: BodyModel, frames: Int64[np.ndarray, " M"]) -> Float64[np.ndarray, " M"]:
    """IoU of matte and body silhouette at the given places of a track; NaN where both are empty."""
    vertices = model.pose(fitted.body.select(frames)).vertices.double().numpy()
    faces = model.faces.numpy()
    intrinsics = fitted.intrinsics.astype(np.float64)
    video = fitted.track.clip.video
    values = []
    for frame, mesh in zip(frames, vertices, strict=True):
        alpha = fitted.keypointed.matted.alphas[frame]
        window = _window(fitted.track.boxes_px[frame], alpha.window_px, (video.width_px, video.height_px))
        height = _MASK_HEIGHT
        width = max(8, round(height * (window[2] - window[0]) / (window[3] - window[1])))
        seen = matte_mask(alpha, window_px=window, width=width, height=height)
        body = body_mask(mesh, faces, intrinsics, window_px=window, width=width, height=height)
        values.append(intersection_over_union(seen, body))
    return np.array(values, np.float64)


def _window(
    box: np.ndarray, other: tuple[int, int, int, int], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The box and the matte's window together, inside the image."""
    x0, y0 = max(0.0, min(float(box[0]), other[0])), max(0.0, min(float(box[1]), other[1]))
    x1, y1 = min(float(size[0]), max(float(box[2]), other[2])), min(float(size[1]), max(float(box[3]), other[3]))
    return (float(x0), float(y0), float(max(x1, x0 + 1)), float(max(y1, y0 + 1)))


def _jitter(joints: Float64[np.ndarray, "N 22 3"], times: Float64[np.ndarray, " N"]) -> float:
    """Median acceleration of the joints, in metres per (1/30 s)^2 whatever the sampling."""
    if len(times) < 3:
        return float("nan")
    steps = np.diff(times)[:, None, None] * _REFERENCE_FPS
    velocity = np.diff(joints, axis=0) / steps
    acceleration = np.diff(velocity, axis=0) / ((steps[:-1] + steps[1:]) / 2)
    return float(np.median(np.linalg.norm(acceleration, axis=-1)))


def _motion(joints: Float64[np.ndarray, "N 22 3"], times: Float64[np.ndarray, " N"]) -> float:
    if len(times) < 2:
        return float("nan")
    relative = joints[:, 1:] - joints[:, :1]
    speed = np.linalg.norm(np.diff(relative, axis=0), axis=-1) / np.diff(times)[:, None]
    return float(speed.mean())


def _coverage(fitted: FittedTrack) -> float:
    keypoints, video = fitted.keypointed.keypoints, fitted.track.clip.video
    points = keypoints.points_px[:, :_NUM_COCO_BODY]
    inside = ((points >= 0) & (points <= [video.width_px, video.height_px])).all(-1)
    return float((inside & (keypoints.scores[:, :_NUM_COCO_BODY] >= _SEEN_SCORE)).mean())


def _view(fitted: FittedTrack) -> float:
    """Median of the unsigned yaw between the body's front and the direction to the camera."""
    angles = fitted.body.global_orient.astype(np.float64)
    turn = np.linalg.norm(angles, axis=-1, keepdims=True)
    axis = angles / np.maximum(turn, 1e-9)
    # Rodrigues' formula for the body's front, (0, 0, 1).
    front = np.cos(turn) * [0.0, 0.0, 1.0] + np.sin(turn) * np.cross(axis, [0.0, 0.0, 1.0])
    front = front + (1 - np.cos(turn)) * axis * axis[:, 2:]
    return float(np.median(np.abs(np.arctan2(front[:, 0], -front[:, 2]))))


def _sharpness(fitted: FittedTrack, context: StageContext, count: int) -> float:
    """Median variance of the Laplacian in the person's box, at a height of at most 256 pixels."""
    track = fitted.track
    chosen = spread_frames(len(track.frame_indices), count)
    values = []
    for position, frame in zip(chosen, context.frames(track.clip.video, track.frame_indices[chosen]), strict=True):
        x0, y0 = np.maximum(np.floor(track.boxes_px[position, :2]), 0).astype(int)
        x1, y1 = np.ceil(track.boxes_px[position, 2:]).astype(int)
        window = frame[y0:y1, x0:x1]
        if min(window.shape[:2]) < 8:
            continue
        grey = cv2.cvtColor(window, cv2.COLOR_RGB2GRAY)
        if grey.shape[0] > _SHARPNESS_HEIGHT:
            width = max(8, round(grey.shape[1] * _SHARPNESS_HEIGHT / grey.shape[0]))
            grey = cv2.resize(grey, (width, _SHARPNESS_HEIGHT), interpolation=cv2.INTER_AREA)
        values.append(float(cv2.Laplacian(grey, cv2.CV_64F).var()))
    return _nanmedian(np.array(values)) if values else float("nan")
