"""How far real mattes are from a difference key: one clip of a camera that stands still, before a plate without people.

    python -m benchmarks.matte_real CLIP.mp4 [--fps 5] [--output sheet.png]

The plate is each pixel's median over the frames in which no person's box covers it. A frame's truth is where it differs
from the plate, closed and filled, within the persons' boxes; pixels near its outline and pixels where the key itself is
in doubt (little difference next to the person) are left out of all measures. Frames whose light changed are left out
too. The key has errors of its own, so this bounds the mattes' error from above rather than measuring it exactly.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from lhmforge.datasets.records import Clip, MattedTrack, SourceVideo, Track, Video
from lhmforge.datasets.synthetic.image_errors import matte_errors
from lhmforge.datasets.threads import single_threaded
from lhmforge.pipelines.alpha import full_alpha
from lhmforge.pipelines.context import UnitContext
from lhmforge.pipelines.stages.matte import MatteStage
from lhmforge.pipelines.stages.probe import ProbeStage
from lhmforge.pipelines.stages.track import TrackStage

_SURE, _NOTHING = 26, 9  # levels of difference that are certainly a person, and that certainly are none
_MAX_LIGHT_CHANGE = 4.0  # median difference outside of all boxes
_DOUBT_PX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A frame's truth: who is where, and which pixels count."""

    person: Bool[np.ndarray, "H W"]
    known: Bool[np.ndarray, "H W"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    with single_threaded(), UnitContext({}) as context:
        mattes = _matted(options.clip, options.fps, context)
        indices = np.unique(np.concatenate([matted.track.frame_indices for matted in mattes]))
        frames = list(context.frames(mattes[0].track.clip.video, indices))
    measured, pictures = [], []
    plate, seen = _plate(frames, [_boxes(mattes, int(index), matted_only=False) for index in indices])
    boxes = [_boxes(mattes, int(index), matted_only=True) for index in indices]
    for index, frame, around in zip(indices, frames, boxes, strict=True):
        key = _key(frame, plate, seen, around)
        if key is None:
            continue
        alpha = _union(mattes, int(index), frame.shape[:2])
        errors = matte_errors(np.where(key.known, alpha, 0).astype(np.uint8), (key.person & key.known) * np.uint8(255))
        measured.append((errors.iou, errors.mad))
        pictures.append(_picture(frame, alpha, key, around))
    values = np.array(measured)
    print(f"{options.clip.name}: {len(values)} of {len(frames)} frames, {len(mattes)} tracks")
    print(f"IoU mean {values[:, 0].mean():.4f}, median {np.median(values[:, 0]):.4f}, worst {values[:, 0].min():.4f}")
    print(f"MAD mean {values[:, 1].mean():.2f} (thousandths)")
    if options.output is not None:
        worst = np.argsort(values[:, 0])[:: max(1, len(values) // 8)][:8]
        cv2.imwrite(str(options.output), np.concatenate([pictures[i] for i in worst], axis=0)[..., ::-1])


def _matted(path: Path, fps: float, context: UnitContext) -> list[MattedTrack]:
    source = SourceVideo(uri=str(path), source_id=path.stem)
    video = next(item for item in ProbeStage()(source, context) if isinstance(item, Video))
    clip = Clip(video=video, first_frame=0, end_frame=video.num_frames)
    tracks = [item for item in TrackStage(sample_fps=fps)(clip, context) if isinstance(item, Track)]
    return [item for track in tracks for item in MatteStage()(track, context) if isinstance(item, MattedTrack)]


def _boxes(mattes: list[MattedTrack], index: int, *, matted_only: bool) -> Float32[np.ndarray, "K 4"]:
    """The padded boxes of the persons in a frame: those with a matte, or also those that are in no track then."""
    found: list[np.ndarray] = []
    for matted in mattes:
        for row in np.flatnonzero(matted.track.frame_indices == index):
            others = [] if matted_only else list(matted.track.other_boxes_px[row])
            found += [matted.track.boxes_px[row], *others]
    boxes = np.array(found, np.float32).reshape(-1, 4)
    pad = 0.12 * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - pad, boxes[:, 2:] + pad], axis=1)


def _inside(boxes: Float32[np.ndarray, "K 4"], shape: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    covered = np.zeros(shape, bool)
    for x0, y0, x1, y1 in np.round(boxes).astype(int):
        covered[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return covered


def _plate(
    frames: list[UInt8[np.ndarray, "H W 3"]], boxes: list[np.ndarray]
) -> tuple[Float32[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """The empty scene, and where it was ever seen often enough."""
    stack = np.stack(frames).astype(np.float32)
    for picture, around in zip(stack, boxes, strict=True):
        picture[_inside(around, picture.shape[:2])] = np.nan
    often = np.isfinite(stack[..., 0]).sum(0) >= 4
    stack[:, ~often] = 0
    return np.nanmedian(stack, axis=0).astype(np.float32), often


def _key(
    frame: UInt8[np.ndarray, "H W 3"], plate: np.ndarray, seen: np.ndarray, boxes: Float32[np.ndarray, "K 4"]
) -> Key | None:
    """None when the light changed or nobody is in the frame."""
    apart = np.abs(cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 1.0) - cv2.GaussianBlur(plate, (0, 0), 1.0)).max(
        -1
    )
    around = _inside(boxes, frame.shape[:2])
    if not around.any() or float(np.median(apart[~around & seen])) > _MAX_LIGHT_CHANGE:
        return None
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    sure = (apart > _SURE).astype(np.uint8) * around
    closed = cv2.morphologyEx(cv2.morphologyEx(sure, cv2.MORPH_OPEN, disk[2:7, 2:7]), cv2.MORPH_CLOSE, disk)
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max((cv2.contourArea(outline) for outline in outlines), default=0.0)
    person = np.zeros_like(closed)
    cv2.drawContours(person, [o for o in outlines if cv2.contourArea(o) > 0.15 * largest], -1, 1, -1)
    edge = cv2.dilate(person, disk[: 2 * _DOUBT_PX + 1, : 2 * _DOUBT_PX + 1]) - cv2.erode(person, disk)
    doubtful = (person == 0) & (apart > _NOTHING) | (person > 0) & (sure == 0) & (closed == 0)
    known = around & seen & (edge == 0) & ~doubtful
    return Key(person=person > 0, known=known) if person.any() else None


def _union(mattes: list[MattedTrack], index: int, shape: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    alpha = np.zeros(shape, np.uint8)
    for matted in mattes:
        for row in np.flatnonzero(matted.track.frame_indices == index):
            alpha = np.maximum(alpha, full_alpha(matted.alphas[row], width=shape[1], height=shape[0]))
    return alpha


def _picture(frame: np.ndarray, alpha: np.ndarray, key: Key, boxes: np.ndarray) -> UInt8[np.ndarray, "240 960 3"]:
    """Frame, matte, and matte against key: white both, red only the key, blue only the matte, grey not counted."""
    x0, y0 = np.maximum(boxes[:, :2].min(0), 0).astype(int)
    x1, y1 = boxes[:, 2:].max(0).astype(int)
    matte = alpha > 127
    told = np.zeros_like(frame)
    told[key.person & matte], told[key.person & ~matte], told[~key.person & matte] = 255, (255, 40, 40), (60, 60, 255)
    told[~key.known] = told[~key.known] // 3 + 60
    parts = [frame, np.repeat(alpha[..., None], 3, axis=2), told]
    return np.concatenate([cv2.resize(part[y0:y1, x0:x1], (320, 240)) for part in parts], axis=1)


if __name__ == "__main__":
    main()
