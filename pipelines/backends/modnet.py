"""Matting: MODNet on the person's crop, held to the person by pose masks, with a fallback where it sees nobody.

MODNet (Ke et al., "MODNet: Real-Time Trimap-Free Portrait Matting via Objective Decomposition", 2022) mattes whatever
is in front: neighbours and furniture too, and it can miss a person in black. The pose landmarker's masks say who is
meant: pixels that a neighbour's mask claims more than the person's own are theirs; alpha is kept near the own mask,
tighter where another person's box lies; where matte and mask disagree altogether the matte is the mask itself,
refined by closed-form matting. All of this at the network's resolution.
Input [1, 3, h, w] RGB scaled to -1..1, sides multiples of 32; output [1, 1, h, w] in 0..1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.asset_table import asset
from lhmforge.datasets.assets import asset_path
from lhmforge.datasets.errors import BackendError
from lhmforge.datasets.records import AlphaCrop, Track
from lhmforge.pipelines.alpha import encode_alpha, grow, inside_boxes, keep_touching, mask_iou
from lhmforge.pipelines.backends.closed_form import refine_mask
from lhmforge.pipelines.backends.mediapipe_pose import find_person
from lhmforge.pipelines.backends.mediapipe_tasks import PoseFinder, PoseFound, open_pose
from lhmforge.pipelines.backends.onnx_session import OnnxModel
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.weights import embedded_or_user, embedded_or_user_digest
from lhmforge.pipelines.boxes import Window, intersection, window_around

_PADDING = 1.25
_SHORT_SIDE_PX = 288
_MAX_LONG_SIDE_PX = 672
_STRIDE = 32
_FREE_REACH = 0.07  # of the box height: hair, skirts and held things may leave the pose mask this far
_CROWDED_REACH = 0.02  # the same inside another person's box
_AGREEMENT = 0.55  # IoU of matte and pose mask below which the matte is not of this person


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One frame's crop at the network's resolution: its window in the frame, who is where in it, and its scale."""

    window: Window
    picture: UInt8[np.ndarray, "h w 3"]
    mask: Float32[np.ndarray, "h w"] | None  # of the person; None: no pose found
    claimed: Float32[np.ndarray, "h w"]  # strongest mask of the neighbours
    crowded: Float32[np.ndarray, "h w"]  # 1 inside the neighbours' boxes
    height_px: float  # of the person's box, at this resolution


class ModNetMatting:
    """`Matting`; the session is created at the first track."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._model: OnnxModel | None = None

    def matte(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Iterator[AlphaCrop]:
        with open_pose(asset_path("pose_landmarker")) as finder:
            for frame, box, others in zip(frames, track.boxes_px, track.other_boxes_px, strict=True):
                view = _look(frame, box, others, finder)
                alpha = _person_alpha(self._foreground(view.picture), view)
                x0, y0, x1, y1 = view.window
                full = cv2.resize(alpha, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
                yield encode_alpha(np.asarray(full, np.float32), view.window)

    def weight_digests(self) -> Sequence[str]:
        return (embedded_or_user_digest(self._spec, "modnet"), asset("pose_landmarker").sha256)

    def _foreground(self, picture: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
        """What MODNet takes for foreground."""
        if self._model is None:
            self._model = OnnxModel(embedded_or_user(self._spec, "modnet"), self._spec)
        scaled = picture.astype(np.float32) / 127.5 - 1
        outputs = self._model.run({self._model.input_names[0]: scaled.transpose(2, 0, 1)[None].copy()})
        expected = (1, 1, *picture.shape[:2])
        if outputs[0].shape != expected:
            raise BackendError(
                f"{self._model.path} is not a MODNet: its output is {outputs[0].shape}, expected {expected}"
            )
        return np.asarray(outputs[0][0, 0], np.float32)


def modnet_matting(spec: BackendSpec) -> ModNetMatting:
    """Factory of the embedded default matting."""
    return ModNetMatting(spec)


def _look(
    frame: UInt8[np.ndarray, "H W 3"],
    box: Float32[np.ndarray, 4],
    others: Float32[np.ndarray, "M 4"],
    finder: PoseFinder,
) -> _View:
    height, width = frame.shape[:2]
    found = find_person(frame, box, finder)
    # With a pose the crop is the mask's, which shows limbs that the detector's box cuts off.
    window = found[1] if found else window_around(box, padding=_PADDING, width=width, height=height)
    x0, y0, x1, y1 = window
    size = _network_size(x1 - x0, y1 - y0)
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
    free = 1 - theirs.astype(np.float32)
    near = grow(own, _FREE_REACH * view.height_px)
    nearer = grow(own, _CROWDED_REACH * view.height_px)
    support = np.where(view.crowded > 0, nearer, near) * cv2.GaussianBlur(free, (0, 0), 1.0)
    alpha = keep_touching((foreground * support).astype(np.float32), own)
    if mask_iou(alpha, own) >= _AGREEMENT:
        return alpha
    return refine_mask(view.picture, own)


def _network_size(width: int, height: int) -> tuple[int, int]:
    """Width and height with the short side near `_SHORT_SIDE_PX`, the long side bounded, multiples of the stride."""
    scale = min(_SHORT_SIDE_PX / min(width, height), _MAX_LONG_SIDE_PX / max(width, height))
    return _multiple(width * scale), _multiple(height * scale)


def _multiple(side: float) -> int:
    return max(_STRIDE, round(side / _STRIDE) * _STRIDE)
