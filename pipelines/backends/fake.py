"""Deterministic stand-ins for every backend role, so that the whole chain runs in tests in about a second.

They work on pictures in which people are blobs of saturated colour: the detector finds them, the tracker follows the
hue, the matte is the blob, and the keypoints are a standing figure as tall as the box.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from lhmforge.datasets.codecs import encode_png
from lhmforge.datasets.records import AlphaCrop, Clip, Keypoints, Track
from lhmforge.pipelines.backends import fake_figure
from lhmforge.pipelines.backends.roles import BackendSpec, BodyStart, Detections, Tracklet
from lhmforge.pipelines.video import frames as decode_frames

_NUM_HUES = 6
_MIN_CHROMA = 110  # of 255: paint, not skin or grass
_MIN_SHARE = 0.004  # of the frame's area
_CUT_LEVEL = 40.0  # change of the mean colour, of 255


@dataclass(frozen=True)
class _Fake:
    """What all fakes share: no weights."""

    def weight_digests(self) -> Sequence[str]:
        return ()


class FakeShots(_Fake):
    """A cut wherever the mean colour jumps."""

    def cuts(self, path: str, *, num_frames: int, fps: float) -> list[int]:
        means = np.array([frame.reshape(-1, 3).mean(0) for frame in decode_frames(path, range(num_frames))])
        jumps = np.abs(np.diff(means, axis=0)).max(axis=1)
        return [int(index) + 1 for index in np.flatnonzero(jumps > _CUT_LEVEL)]


class FakeDetector(_Fake):
    """One person per hue: the box of its largest connected blob, with the hue as appearance."""

    def detect(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]]) -> Iterator[Detections]:
        for frame in frames:
            found = [(hue, box) for hue in range(_NUM_HUES) if (box := _largest_blob(_paint(frame, hue))) is not None]
            yield Detections(
                boxes_px=np.array([box for _, box in found], np.float32).reshape(-1, 4),
                scores=np.full(len(found), 0.95, np.float32),
                appearance=np.eye(_NUM_HUES, dtype=np.float32)[[hue for hue, _ in found]].reshape(-1, _NUM_HUES),
            )


class FakeTracker(_Fake):
    """One tracklet per hue."""

    def link(self, detections: Sequence[Detections], *, fps: float) -> list[Tracklet]:
        seen: dict[int, list[tuple[int, int]]] = {}
        for position, detected in enumerate(detections):
            for row, appearance in enumerate(detected.appearance):
                seen.setdefault(int(appearance.argmax()), []).append((position, row))
        return [
            Tracklet(
                positions=np.array([position for position, _ in places], np.int64),
                boxes_px=np.array([detections[position].boxes_px[row] for position, row in places], np.float32),
                scores=np.array([detections[position].scores[row] for position, row in places], np.float32),
            )
            for _, places in sorted(seen.items())
        ]


class FakeMatting(_Fake):
    """The paint of the box's main hue, with soft borders."""

    def matte(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Iterator[AlphaCrop]:
        for frame, box in zip(frames, track.boxes_px, strict=True):
            window = _window(box, frame.shape[1], frame.shape[0])
            x0, y0, x1, y1 = window
            crop = frame[y0:y1, x0:x1]
            paint = max((_paint(crop, hue) for hue in range(_NUM_HUES)), key=lambda mask: int(mask.sum()))
            soft = cv2.GaussianBlur(paint.astype(np.uint8) * 255, (3, 3), 0)
            yield AlphaCrop(window_px=window, png=encode_png(soft))


class FakeKeypoints(_Fake):
    """A figure that faces the camera and sways its arms, as tall as the box."""

    def estimate(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Keypoints:
        boxes = track.boxes_px
        num_frames = sum(1 for _ in frames)
        assert num_frames == len(boxes)
        figure_m = np.stack([fake_figure.landmarks(index) for index in track.frame_indices.tolist()])
        scale = (boxes[:, 3] - boxes[:, 1]) / fake_figure.HEIGHT_M
        origin = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 1] + fake_figure.HEAD_TOP_M * scale], 1)
        in_image = origin[:, None] + figure_m[..., :2] * scale[:, None, None]
        points, scores = fake_figure.wholebody(in_image.astype(np.float32))
        return Keypoints(
            points_px=points,
            scores=scores,
            landmark_set="mediapipe_33",
            landmarks_m=figure_m.astype(np.float32),
            landmark_scores=np.full(figure_m.shape[:2], 0.9, np.float32),
            blendshapes=np.zeros((num_frames, 0), np.float32),
            face_px=np.zeros((num_frames, 0, 2), np.float32),
        )


class FakeBodyInit(_Fake):
    """An upright body facing the camera, where the box says it stands."""

    def start(self, clip: Clip, track: Track, keypoints: Keypoints) -> BodyStart:
        num_frames = len(track.frame_indices)
        rotations = np.tile(np.eye(3, dtype=np.float32), (num_frames, 22, 1, 1))
        rotations[:, 0] = np.diag([1, -1, -1])  # SMPL-X: y up, facing +z; camera: y down, z away
        video, boxes = clip.video, track.boxes_px
        focal = 1.2 * max(video.width_px, video.height_px)
        depth = focal * fake_figure.HEIGHT_M / np.maximum(boxes[:, 3] - boxes[:, 1], 1)
        centre = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2], 1)
        offset = (centre - np.array([video.width_px / 2, video.height_px / 2])) / focal * depth[:, None]
        return BodyStart(
            rotations=rotations,
            transl=np.concatenate([offset, depth[:, None]], 1).astype(np.float32),
            betas=np.zeros(10, np.float32),
            valid=np.ones(num_frames, bool),
        )


class FakeFace(_Fake):
    """The mean colour of the box as an identity, so that a hue is a person."""

    def embed(
        self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], boxes_px: Float32[np.ndarray, "N 4"]
    ) -> Float32[np.ndarray, "N D"]:
        rows = []
        for frame, box in zip(frames, boxes_px, strict=True):
            x0, y0, x1, y1 = _window(box, frame.shape[1], frame.shape[0])
            colour = frame[y0:y1, x0:x1].reshape(-1, 3).mean(0) - 127.5
            rows.append(colour / max(float(np.linalg.norm(colour)), 1e-6))
        return np.array(rows, np.float32).reshape(-1, 3)


def fake_shots(spec: BackendSpec) -> FakeShots:
    return FakeShots()


def fake_detector(spec: BackendSpec) -> FakeDetector:
    return FakeDetector()


def fake_tracker(spec: BackendSpec) -> FakeTracker:
    return FakeTracker()


def fake_matting(spec: BackendSpec) -> FakeMatting:
    return FakeMatting()


def fake_keypoints(spec: BackendSpec) -> FakeKeypoints:
    return FakeKeypoints()


def fake_body_init(spec: BackendSpec) -> FakeBodyInit:
    return FakeBodyInit()


def fake_face(spec: BackendSpec) -> FakeFace:
    return FakeFace()


def _paint(frame: UInt8[np.ndarray, "H W 3"], hue: int) -> Bool[np.ndarray, "H W"]:
    """Where the frame shows saturated colour of one of six hues (red, yellow, green, cyan, blue, magenta)."""
    hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)  # OpenCV's hue: 0..179
    chroma = frame.max(-1).astype(np.int16) - frame.min(-1)
    nearest = ((hsv[..., 0].astype(np.int16) + 15) // 30) % _NUM_HUES
    mask: Bool[np.ndarray, "H W"] = (nearest == hue) & (chroma >= _MIN_CHROMA)
    return mask


def _largest_blob(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int] | None:
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if len(stats) < 2:
        return None
    x, y, width, height, area = (int(value) for value in stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())])
    return (x, y, x + width, y + height) if area >= _MIN_SHARE * mask.size else None


def _window(box: Float32[np.ndarray, " 4"], width: int, height: int) -> tuple[int, int, int, int]:
    """The box grown by two pixels, whole pixels, inside the frame, never empty."""
    x0, y0 = (int(np.clip(np.floor(box[i]) - 2, 0, size - 1)) for i, size in ((0, width), (1, height)))
    x1, y1 = int(np.clip(np.ceil(box[2]) + 2, x0 + 1, width)), int(np.clip(np.ceil(box[3]) + 2, y0 + 1, height))
    return x0, y0, x1, y1
