"""Pack: cuts the accepted frames of a gated track around the person and encodes them as samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from lhmforge.datasets.cameras import crop_and_resize_intrinsics
from lhmforge.datasets.codecs import decode_png
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.records import AlphaCrop, GatedTrack, PackedSample, Reject
from lhmforge.datasets.sample import MAX_FRAMES, SampleContent, StoredFrame, build_sample
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.likeness import LikenessBuilder
from lhmforge.pipelines.stage import StageContext

_DEFAULT_FACE = BackendSpec(name="sface")
WINDOW_VALUES = ("window_x0_px", "window_y0_px", "window_x1_px", "window_y1_px")
_MATTE_THRESHOLD = 13  # of 255: fainter pixels do not widen a window


@dataclass(frozen=True, slots=True, kw_only=True)
class PackStage:
    """Writes samples of at most `max_frames` frames each, split evenly, from the frames that the gate kept.

    A frame's window is the matte's box grown by `margin` of its longer side on each side, inside the frame, and is
    shrunk (never enlarged) to fit `max_width_px` x `max_height_px`. On the way each sample gets its signature, and,
    unless `face` is None, vectors of face and clothes, which are biometric data (see `pipelines.likeness_files`).
    """

    name: ClassVar[str] = "pack"
    version: ClassVar[int] = 3
    accepts: ClassVar[type] = GatedTrack
    produces: ClassVar[type] = PackedSample

    max_width_px: int = 640
    max_height_px: int = 640
    margin: float = 0.15
    max_frames: int = 128
    jpeg_quality: int = 92
    face: BackendSpec | None = _DEFAULT_FACE

    def __post_init__(self) -> None:
        if not 1 <= self.max_frames <= MAX_FRAMES:
            raise ConfigError(f"pack: max_frames is {self.max_frames}; it must lie in 1..{MAX_FRAMES}")
        if min(self.max_width_px, self.max_height_px) < 16:
            raise ConfigError("pack: max_width_px and max_height_px must be at least 16")
        if not 0.0 <= self.margin <= 1.0 or not 1 <= self.jpeg_quality <= 100:
            raise ConfigError("pack: margin must lie in 0..1 and jpeg_quality in 1..100")

    def weight_digests(self) -> Sequence[str]:
        return () if self.face is None else load_backend("face", self.face).weight_digests()

    def __call__(self, record: GatedTrack, context: StageContext) -> Iterator[PackedSample | Reject]:
        kept = np.flatnonzero(record.frame_ok)
        mattes = record.fitted.keypointed.matted.alphas
        windows = {int(place): window for place in kept if (window := matte_window(mattes[place])) is not None}
        places = np.array(sorted(windows), np.int64)
        if len(places) == 0:
            yield _nothing_left(record)
            return
        num_samples = -(-len(places) // self.max_frames)
        for part, chosen in enumerate(np.array_split(places, num_samples)):
            yield self._pack(record, part, chosen, [windows[int(place)] for place in chosen], context)

    def _pack(
        self,
        record: GatedTrack,
        part: int,
        places: Int64[np.ndarray, " M"],
        boxes: Sequence[tuple[int, int, int, int]],
        context: StageContext,
    ) -> PackedSample:
        fitted, track, video = record.fitted, record.track, record.track.clip.video
        keypoints, mattes = fitted.keypointed.keypoints, fitted.keypointed.matted.alphas
        indices = track.frame_indices[places]
        frames, points, intrinsics, crops = [], [], [], []
        likeness = LikenessBuilder(fitted, places, context.backend("face", self.face) if self.face else None)
        decoded = context.frames(video, indices)
        for number, (place, box, image) in enumerate(zip(places.tolist(), boxes, decoded, strict=True)):
            likeness.show(number, place, image)
            crop = _Crop.around(box, image.shape[1], image.shape[0], self)
            crops.append(crop.window)
            frames.append(crop.encode(image, mattes[place], quality=self.jpeg_quality))
            points.append(crop.move_points(keypoints.points_px[place]))
            intrinsics.append(crop.move_intrinsics(fitted.intrinsics))
        content = SampleContent(
            frames=frames,
            body=fitted.body.select(places),
            points_px=np.stack(points),
            point_scores=keypoints.scores[places],
            intrinsics=np.stack(intrinsics),
            world_to_camera=np.broadcast_to(np.eye(4, dtype=np.float32), (len(places), 4, 4)),
            frame_indices=indices,
            fps=video.fps,
            frame_values={
                "reprojection_px": fitted.reprojection_px[places],
                "pose_uncertainty_rad": fitted.pose_uncertainty_rad[places],
                # Where in the source frame the stored frame was cut out, for comparisons with truth.
                **dict(zip(WINDOW_VALUES, np.array(crops, np.float32).T, strict=True)),
            },
        )
        sample = build_sample(
            content,
            key=f"{record.key}_{part:02d}",
            source=video.source,
            scores=record.scores,
            video_digest=video.digest,
            first_frame=int(indices[0]),
            end_frame=int(indices[-1]) + 1,
            person=track.person,
            body_digest=fitted.body_digest,
        )
        return replace(sample, signature=likeness.signature(), likeness=likeness.likeness())


def matte_window(matte: AlphaCrop) -> tuple[int, int, int, int] | None:
    """The box (x0, y0, x1, y1, frame pixels) of the matte's visible pixels; None when there are none."""
    alpha = decode_png(matte.png, what="matte")
    seen = alpha >= _MATTE_THRESHOLD
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    if len(columns) == 0:
        return None
    left, top = matte.window_px[:2]
    return int(left + columns[0]), int(top + rows[0]), int(left + columns[-1] + 1), int(top + rows[-1] + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crop:
    """A window of a frame and the size that it is stored at."""

    window: tuple[int, int, int, int]
    width: int
    height: int

    @classmethod
    def around(cls, box: tuple[int, int, int, int], frame_width: int, frame_height: int, stage: PackStage) -> _Crop:
        grow = round(stage.margin * max(box[2] - box[0], box[3] - box[1]))
        window = (
            max(0, box[0] - grow),
            max(0, box[1] - grow),
            min(frame_width, box[2] + grow),
            min(frame_height, box[3] + grow),
        )
        width, height = window[2] - window[0], window[3] - window[1]
        scale = min(1.0, stage.max_width_px / width, stage.max_height_px / height)
        return cls(window=window, width=max(1, round(width * scale)), height=max(1, round(height * scale)))

    def encode(self, image: UInt8[np.ndarray, "H W 3"], matte: AlphaCrop, *, quality: int) -> StoredFrame:
        x0, y0, x1, y1 = self.window
        alpha = np.zeros(image.shape[:2], np.uint8)
        left, top, right, bottom = matte.window_px
        alpha[top:bottom, left:right] = decode_png(matte.png, what="matte")
        return StoredFrame.encode(
            self._resized(image[y0:y1, x0:x1]), self._resized(alpha[y0:y1, x0:x1]), quality=quality
        )

    def move_points(self, points_px: Float32[np.ndarray, "K 2"]) -> Float32[np.ndarray, "K 2"]:
        x0, y0, x1, y1 = self.window
        scale = np.array([self.width / (x1 - x0), self.height / (y1 - y0)], np.float32)
        moved: np.ndarray = ((points_px - np.array([x0, y0], np.float32)) * scale).astype(np.float32)
        return moved

    def move_intrinsics(self, intrinsics: Float32[np.ndarray, "3 3"]) -> Float32[np.ndarray, "3 3"]:
        x0, y0, x1, y1 = (float(edge) for edge in self.window)
        return crop_and_resize_intrinsics(intrinsics, window_px=(x0, y0, x1, y1), width=self.width, height=self.height)

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[:2] == (self.height, self.width):
            return np.ascontiguousarray(pixels)
        return np.asarray(cv2.resize(pixels, (self.width, self.height), interpolation=cv2.INTER_AREA))


def _nothing_left(record: GatedTrack) -> Reject:
    return Reject(
        key=record.key,
        source=record.track.clip.video.source,
        stage=PackStage.name,
        reason="no_frames_left",
        detail=f"the gate kept {int(record.frame_ok.sum())} frames and none of them has a visible matte",
        scores=record.scores,
    )
