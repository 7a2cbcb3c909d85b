"""Tracks with known bodies for the stage tests: keypoints, mattes and frames made from one truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.codecs import encode_png
from lhmforge.datasets.records import (
    AlphaCrop,
    Clip,
    Keypoints,
    KeypointTrack,
    MattedTrack,
    SourceVideo,
    Track,
    Video,
)
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.fitting.landmarks import WHOLEBODY_INDEX
from lhmforge.pipelines.fitting.rotations import log_rotation
from lhmforge.pipelines.fitting.silhouette import body_mask
from lhmforge.pipelines.fitting.solver_check import CheckClip

SIZE = (1280, 720)


class NoiseFrames:
    """A context whose frames are sharp noise, or flat grey."""

    def __init__(self, *, flat: bool = False) -> None:
        self.flat = flat

    def frames(self, video: Video, frame_indices: np.ndarray) -> Iterator[np.ndarray]:
        for index in frame_indices:
            rng = np.random.default_rng(int(index))
            frame = rng.integers(0, 256, (video.height_px, video.width_px, 3), np.uint8)
            yield np.full_like(frame, 128) if self.flat else frame

    def local_path(self, uri: str) -> str:
        return uri

    def backend(self, role: str, spec: BackendSpec) -> None:
        raise AssertionError(f"no backend was expected, asked for {role}")


def keypoint_track(clip: CheckClip, model: BodyModel) -> KeypointTrack:
    """The clip's noisy points in whole-body order with boxes and mattes of the true body."""
    seen = clip.observations
    n = len(seen.times_s)
    points, scores = np.zeros((n, 133, 2), np.float32), np.zeros((n, 133), np.float32)
    points[:, WHOLEBODY_INDEX] = seen.points_px
    scores[:, WHOLEBODY_INDEX] = np.where(seen.weights_px > 0, 0.95, 0.0)
    alphas, boxes = _mattes(clip, model)
    video = Video(
        source=SourceVideo(uri="made.mp4", source_id="made"),
        digest="0" * 64,
        container="mp4",
        codec="h264",
        width_px=SIZE[0],
        height_px=SIZE[1],
        rotation_deg=0,
        num_frames=n,
        fps=30.0,
        duration_s=n / 30,
        bit_depth=8,
    )
    track = Track(
        clip=Clip(video=video, first_frame=0, end_frame=n),
        person=0,
        frame_indices=np.arange(n),
        boxes_px=boxes,
        scores=np.full(n, 0.9, np.float32),
        other_boxes_px=tuple(np.zeros((0, 4), np.float32) for _ in range(n)),
    )
    keypoints = Keypoints(
        points_px=points,
        scores=scores,
        landmark_set="none",
        landmarks_m=np.zeros((n, 0, 3), np.float32),
        landmark_scores=np.zeros((n, 0), np.float32),
        blendshapes=np.zeros((n, 0), np.float32),
        face_px=np.zeros((n, 0, 2), np.float32),
    )
    return KeypointTrack(matted=MattedTrack(track=track, alphas=alphas), keypoints=keypoints)


def with_points(record: KeypointTrack, points: np.ndarray, scores: np.ndarray) -> KeypointTrack:
    """The same track with other keypoints."""
    keypoints = replace(record.keypoints, points_px=points.astype(np.float32), scores=scores.astype(np.float32))
    return replace(record, keypoints=keypoints)


def _mattes(clip: CheckClip, model: BodyModel) -> tuple[tuple[AlphaCrop, ...], np.ndarray]:
    n = len(clip.transl)
    angles = log_rotation(clip.rotations).astype(np.float32)
    params = replace(
        BodyParams.rest(n, num_betas=len(clip.betas)),
        betas=clip.betas.astype(np.float32),
        global_orient=angles[:, 0],
        body_pose=angles[:, 1:],
        transl=clip.transl.astype(np.float32),
    )
    vertices = model.pose(params).vertices.double().numpy()
    faces = model.faces.numpy()
    alphas, boxes = [], []
    for mesh in vertices:
        window = (0.0, 0.0, float(SIZE[0]), float(SIZE[1]))
        mask = body_mask(mesh, faces, clip.observations.intrinsics, window_px=window, width=SIZE[0], height=SIZE[1])
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x0, y0, x1, y1 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        crop = np.ascontiguousarray(mask[y0:y1, x0:x1]).astype(np.uint8) * 255
        alphas.append(AlphaCrop(window_px=(x0, y0, x1, y1), png=encode_png(crop)))
        boxes.append([x0, y0, x1, y1])
    return tuple(alphas), np.array(boxes, np.float32)
