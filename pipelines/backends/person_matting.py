"""What all matting backends share: which pixels of a foreground matte belong to the track's person.

A matting network mattes whatever is in front: neighbours and furniture too, and it can miss a person in black. The
pose landmarker's masks say who is meant: pixels that a neighbour's mask claims more than the person's own are theirs;
alpha is kept near the own mask, tighter where another person's box lies. Where the matte lacks what the mask is sure of
(a leg against the light, a dark trunk before dark leaves), the mask with its edges drawn to the picture's fills the
hole; where the two disagree altogether, that mask is the matte. All of this at the network's resolution.

Measured on rendered people, mean IoU with the truth before and after: 0.989 and 0.990 as rendered, 0.981 and 0.983 with
low contrast, 0.872 and 0.987 with a leg and a part of the trunk cut out of the network's matte. Closed-form matting of
the mask instead of the edge-guided mask: 0.861 against 0.982.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.assets import asset_path
from lhmforge.datasets.records import AlphaCrop, Track
from lhmforge.pipelines.alpha import (
    encode_alpha,
    follow_edges,
    grow,
    inside_boxes,
    keep_touching,
    mask_iou,
    missing_parts,
)
from lhmforge.pipelines.backends.mediapipe_pose import find_person
from lhmforge.pipelines.backends.mediapipe_tasks import PoseFinder, PoseFound, open_pose
from lhmforge.pipelines.boxes import Window, intersection, window_around

_PADDING = 1.25
_FREE_REACH = 0.07  # of the box height: hair, skirts and held things may leave the pose mask this far
_CROWDED_REACH = 0.02  # the same inside another person's box
_FAILED_REACH = 0.03  # the same when the matte lacks a part: what it adds elsewhere is not to be trusted either
_FAILED_SHARE = 0.03  # of the mask: so much must be missing for that
_MARGIN = 0.012  # holes nearer to the mask's outline are a matter of its resolution
_FILL_REACH = 0.04  # around a hole the mask decides as well
_EDGE_RADIUS = 0.02
_AGREEMENT = 0.7  # IoU of matte and pose mask below which the matte is not of this person

# A crop's picture at the network's resolution -> foreground alpha in 0..1 of the same size.
Foreground = Callable[[UInt8[np.ndarray, "h w 3"]], Float32[np.ndarray, "h w"]]
# Width and height of a window in px -> those of the network's picture.
NetworkSize = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One frame's crop at the network's resolution: its window in the frame, who is where in it, and its scale."""

    window: Window
    picture: UInt8[np.ndarray, "h w 3"]
    mask: Float32[np.ndarray, "h w"] | None  # of the person; None: no pose found
    claimed: Float32[np.ndarray, "h w"]  # strongest mask of the neighbours
    crowded: Float32[np.ndarray, "h w"]  # 1 inside the neighbours' boxes
    height_px: float  # of the person's box, at this resolution


def matte_person(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    track: Track,
    foreground: Foreground,
    network_size: NetworkSize,
    *,
    steady: bool = False,
) -> Iterator[AlphaCrop]:
    """One alpha per frame; `steady` keeps one window for the whole track, which recurrent networks need."""
    with open_pose(asset_path("pose_landmarker")) as finder:
        for frame, box, others in zip(frames, track.boxes_px, track.other_boxes_px, strict=True):
            window = _track_window(track, frame) if steady else None
            view = _look(frame, box, others, finder, window, network_size)
            alpha = _person_alpha(foreground(view.picture), view)
            x0, y0, x1, y1 = view.window
            full = cv2.resize(alpha, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
            yield encode_alpha(np.asarray(full, np.float32), view.window)


def round_size(width: int, height: int, *, short_side: int, max_long_side: int, stride: int) -> tuple[int, int]:
    """A picture size with the short side near `short_side`, the long side bounded, sides multiples of `stride`."""
    scale = min(short_side / min(width, height), max_long_side / max(width, height))
    return max(stride, round(width * scale / stride) * stride), max(stride, round(height * scale / stride) * stride)


def _track_window(track: Track, frame: UInt8[np.ndarray, "H W 3"]) -> Window:
    """All boxes of the track, padded."""
    boxes = track.boxes_px
    union = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]).astype(np.float32)
    return window_around(union, padding=_PADDING, width=frame.shape[1], height=frame.shape[0])


def _look(
    frame: UInt8[np.ndarray, "H W 3"],
    box: Float32[np.ndarray, 4],
    others: Float32[np.ndarray, "M 4"],
    finder: PoseFinder,
    fixed: Window | None,
    network_size: NetworkSize,
) -> _View:
    height, width = frame.shape[:2]
    found = find_person(frame, box, finder)
    # With a pose the crop is the mask's, which shows limbs that the detector's box cuts off.
    around = found[1] if found else window_around(box, padding=_PADDING, width=width, height=height)
    window = fixed or around
    x0, y0, x1, y1 = window
    size = network_size(x1 - x0, y1 - y0)
    picture = cv2.resize(np.ascontiguousarray(frame[y0:y1, x0:x1]), size, interpolation=cv2.INTER_AREA)
    claimed = np.zeros((size[1], size[0]), np.float32)
    for other in others:
        if found and intersection(np.array([window], np.float32), other[None])[0, 0] > 0:
            neighbour = find_person(frame, other, finder)
            if neighbour is not None:
                claimed = np.maximum(claimed, _mask_in(neighbour, window, size))
    return _View(
        window=window,
        picture=np.asarray(picture, np.uint8),
        mask=None if found is None else _mask_in(found, window, size),
        claimed=claimed,
        crowded=inside_boxes(others, window, (size[1], size[0])),
        height_px=float(box[3] - box[1]) * size[1] / (y1 - y0),
    )


def _mask_in(found: tuple[PoseFound, Window], window: Window, size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """A person's mask resampled to another window's picture of `size` (width, height), zero outside its own window."""
    pose, (a0, b0, a1, b1) = found
    x0, y0, x1, y1 = window
    rows, columns = pose.mask.shape
    x = (x0 + (np.arange(size[0]) + 0.5) * (x1 - x0) / size[0] - a0) * columns / (a1 - a0) - 0.5
    y = (y0 + (np.arange(size[1]) + 0.5) * (y1 - y0) / size[1] - b0) * rows / (b1 - b0) - 0.5
    map_x, map_y = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    return np.asarray(cv2.remap(pose.mask, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), np.float32)


def _person_alpha(foreground: Float32[np.ndarray, "h w"], view: _View) -> Float32[np.ndarray, "h w"]:
    """The part of a foreground matte that belongs to the person."""
    if view.mask is None:
        return np.asarray(foreground * (1 - view.crowded), np.float32)
    theirs = (view.claimed > view.mask) & (view.claimed >= 0.5)
    own = np.where(theirs, 0, view.mask).astype(np.float32)
    free = cv2.GaussianBlur(1 - theirs.astype(np.float32), (0, 0), 1.0)
    holes = missing_parts((foreground * free).astype(np.float32), own, margin_px=_MARGIN * view.height_px)
    failed = float(holes.sum()) > _FAILED_SHARE * float((own >= 0.5).sum())
    near = grow(own, (_FAILED_REACH if failed else _FREE_REACH) * view.height_px)
    nearer = grow(own, _CROWDED_REACH * view.height_px)
    alpha = np.asarray(foreground * np.where(view.crowded > 0, nearer, near) * free, np.float32)
    if holes.any():
        filling = grow(holes, _FILL_REACH * view.height_px) * _edged(own, view) * free
        alpha = np.maximum(alpha, filling).astype(np.float32)
    alpha = keep_touching(alpha, own)
    return alpha if mask_iou(alpha, own) >= _AGREEMENT else _edged(own, view)


def _edged(own: Float32[np.ndarray, "h w"], view: _View) -> Float32[np.ndarray, "h w"]:
    return follow_edges(view.picture, own, radius_px=_EDGE_RADIUS * view.height_px)
