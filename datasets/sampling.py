"""From a stored sample to one training example: which frames, which crops, which backgrounds.

The rules are those published for LHM's training (one source and several target views; the source is one of the
targets), with two changes: windows are centred on the person, not on the image, because our renderer takes any
principal point; and mattes stay soft. All randomness comes from the given generator, so an example can be made again.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from lhmforge.datasets.cameras import crop_and_resize_intrinsics
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.sample import StoredSample

FACE = slice(23, 91)  # the 68 face points of COCO-WholeBody
HEAD = slice(0, 5)  # nose, eyes, ears
_MATTE_THRESHOLD = 26  # of 255: fainter pixels do not widen a window
_MARGIN = 1.1  # a window is this much larger than the matte's box
_HEAD_SCALE = 1.65  # side of the head box over the root of the face box' area (lhm_spec section 1.3)
_FRONTAL_TOLERANCE_RAD = np.deg2rad(10.0)

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the stored frame; may reach outside it


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How examples are cut; sizes are (width, height) in pixels, probabilities and ratios in 0..1.

    `backgrounds` are the grey values that a target may get; `enlarge` the range of a window's random scale;
    `source_pad_ratios` how much a source window may grow; with `half_body_probability` only the top `half_body_rows`
    of the source are kept, moved to the bottom edge.
    """

    num_target_views: int = 4
    source_size: tuple[int, int] = (384, 640)
    target_size: tuple[int, int] = (384, 640)
    head_size: int = 112
    backgrounds: tuple[float, ...] = (0.0, 0.5, 1.0)
    chunked_probability: float = 0.7
    enlarge: tuple[float, float] = (0.9, 1.1)
    source_pad_ratios: tuple[float, ...] = (0.0, 0.1, 0.2)
    half_body_probability: float = 0.5
    half_body_rows: tuple[float, float] = (0.5, 1.0)
    min_keypoint_score: float = 0.3

    def __post_init__(self) -> None:
        if self.num_target_views < 1:
            raise ConfigError(f"num_target_views is {self.num_target_views}; it must be at least 1")
        for name in ("source_size", "target_size"):
            if min(getattr(self, name)) < 8:
                raise ConfigError(f"{name} is {getattr(self, name)}; width and height must be at least 8 pixels")
        for name in ("chunked_probability", "half_body_probability", "min_keypoint_score"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie in 0..1")
        if not self.backgrounds or not all(0.0 <= grey <= 1.0 for grey in self.backgrounds):
            raise ConfigError(f"backgrounds is {self.backgrounds}; it must list grey values in 0..1")
        if not self.source_pad_ratios or min(self.source_pad_ratios) < 0:
            raise ConfigError(f"source_pad_ratios is {self.source_pad_ratios}; it must list numbers from 0 up")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One window of one frame: colour composited on `background`, alpha, intrinsics of this picture, head box."""

    image: Float32[np.ndarray, "H W 3"]
    alpha: Float32[np.ndarray, "H W"]
    intrinsics: Float32[np.ndarray, "3 3"]
    head_box: Float32[np.ndarray, " 4"]  # in pixels of this picture; zeros: no face inside
    background: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One source and `V` targets of a sample; `frames` are the targets' indices into the sample."""

    key: str
    source: View
    head_image: Float32[np.ndarray, "K K 3"]
    head_valid: bool
    targets: tuple[View, ...]
    frames: Int64[np.ndarray, " V"]


def training_example(sample: StoredSample, config: SamplingConfig, rng: np.random.Generator) -> Example:
    """A random example; the source is the first of the shuffled targets."""
    frames = choose_frames(sample.num_frames, config.num_target_views, config.chunked_probability, rng)
    decoded = {int(index): _Decoded.of(sample, int(index), config) for index in frames}
    targets = tuple(
        _cut_view(
            decoded[int(index)],
            scale=rng.uniform(*config.enlarge),
            size=config.target_size,
            background=float(rng.choice(config.backgrounds)),
        )
        for index in frames
    )
    first = decoded[int(frames[0])]
    scale = rng.uniform(*config.enlarge) * (1.0 + rng.choice(config.source_pad_ratios))
    source = _cut_view(first, scale=scale, size=config.source_size, background=1.0)
    if rng.random() < config.half_body_probability:
        source = _keep_top_rows(source, rng.uniform(*config.half_body_rows))
    return _example(sample, config, source, first, targets, frames)


def evaluation_example(sample: StoredSample, config: SamplingConfig) -> Example:
    """The one example that a sample is judged by: the first frontal frame, targets spread in time, all on white."""
    frames = chunk_centres(sample.num_frames, config.num_target_views)
    decoded = [_Decoded.of(sample, int(index), config) for index in frames]
    targets = tuple(_cut_view(frame, scale=1.0, size=config.target_size, background=1.0) for frame in decoded)
    first = _Decoded.of(sample, most_frontal_frame(sample), config)
    source = _cut_view(first, scale=1.0, size=config.source_size, background=1.0)
    return _example(sample, config, source, first, targets, frames)


def choose_frames(
    num_frames: int, num_views: int, chunked_probability: float, rng: np.random.Generator
) -> Int64[np.ndarray, " V"]:
    """Shuffled frames: one per equal chunk of time, else uniform; repeats only when the sample is too short."""
    if rng.random() < chunked_probability:
        edges = np.linspace(0, num_frames, num_views + 1)
        frames = np.floor(rng.uniform(edges[:-1], edges[1:])).astype(np.int64)
    else:
        frames = rng.choice(num_frames, size=num_views, replace=num_frames < num_views).astype(np.int64)
    shuffled: np.ndarray = rng.permutation(np.clip(frames, 0, num_frames - 1))
    return shuffled


def chunk_centres(num_frames: int, num_views: int) -> Int64[np.ndarray, " V"]:
    """The middle frames of `num_views` equal chunks of time."""
    centres: np.ndarray = np.floor((np.arange(num_views) + 0.5) * num_frames / num_views).astype(np.int64)
    return centres


def frontal_angle_rad(sample: StoredSample) -> Float32[np.ndarray, " N"]:
    """Angle between where the body faces (its +z) and the direction towards the camera, per frame."""
    rotations = np.stack([cv2.Rodrigues(vector.astype(np.float64))[0] for vector in sample.body.global_orient])
    facing = sample.world_to_camera[:, :3, :3].astype(np.float64) @ rotations[:, :, 2:]
    angle: np.ndarray = np.arccos(np.clip(-facing[:, 2, 0], -1.0, 1.0)).astype(np.float32)
    return angle


def most_frontal_frame(sample: StoredSample) -> int:
    """The first frame that is within ten degrees of the most frontal one."""
    angle = frontal_angle_rad(sample)
    return int(np.argmax(angle <= angle.min() + _FRONTAL_TOLERANCE_RAD))


def person_window(alpha: UInt8[np.ndarray, "H W"], *, size: tuple[int, int], scale: float) -> Window:
    """A window of the aspect of `size` (width, height) around the matte's box; the whole frame if it is empty."""
    seen = alpha >= _MATTE_THRESHOLD
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    if len(columns) == 0:
        columns, rows = np.arange(alpha.shape[1]), np.arange(alpha.shape[0])
    x0, x1, y0, y1 = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    aspect = size[0] / size[1]
    height = max(y1 - y0, (x1 - x0) / aspect) * _MARGIN * scale
    half_width, half_height = max(1.0, height * aspect / 2), max(1.0, height / 2)
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = round(centre_x - half_width), round(centre_y - half_height)
    return left, top, left + max(1, round(2 * half_width)), top + max(1, round(2 * half_height))


def head_square(
    points_px: Float32[np.ndarray, "133 2"], scores: Float32[np.ndarray, " 133"], min_score: float
) -> Window | None:
    """A square around the head from the face points, or from nose, eyes and ears where those are missing."""
    seen: Bool[np.ndarray, " 133"] = scores >= min_score
    if seen[FACE].sum() >= 34:
        points = points_px[FACE][seen[FACE]]
        side = _HEAD_SCALE * float(np.sqrt(np.prod(np.ptp(points, axis=0))))
    elif seen[HEAD].sum() >= 3 and seen[0]:
        points = points_px[HEAD][seen[HEAD]]
        side = 2.0 * float(np.ptp(points, axis=0).max())
    else:
        return None
    if not 4.0 <= side < 1e5:
        return None
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    left, top, width = round(float(centre[0]) - side / 2), round(float(centre[1]) - side / 2), round(side)
    return left, top, left + width, top + width


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoded:
    """One stored frame with its matte, camera and head square."""

    image: UInt8[np.ndarray, "H W 3"]
    alpha: UInt8[np.ndarray, "H W"]
    intrinsics: Float32[np.ndarray, "3 3"]
    head: Window | None

    @classmethod
    def of(cls, sample: StoredSample, index: int, config: SamplingConfig) -> _Decoded:
        head = head_square(sample.points_px[index], sample.point_scores[index], config.min_keypoint_score)
        return cls(image=sample.image(index), alpha=sample.alpha(index), intrinsics=sample.intrinsics[index], head=head)


def _example(
    sample: StoredSample,
    config: SamplingConfig,
    source: View,
    first: _Decoded,
    targets: tuple[View, ...],
    frames: Int64[np.ndarray, " V"],
) -> Example:
    side = (config.head_size, config.head_size)
    if first.head is None:
        head_image = np.zeros((*side, 3), np.float32)
    else:
        head_image, _ = _cut(first, first.head, size=side, background=1.0)
    return Example(
        key=sample.key,
        source=source,
        head_image=head_image,
        head_valid=first.head is not None,
        targets=targets,
        frames=frames,
    )


def _cut_view(frame: _Decoded, *, scale: float, size: tuple[int, int], background: float) -> View:
    window = person_window(frame.alpha, size=size, scale=scale)
    image, alpha = _cut(frame, window, size=size, background=background)
    width, height = size
    return View(
        image=image,
        alpha=alpha,
        intrinsics=crop_and_resize_intrinsics(
            frame.intrinsics,
            window_px=(float(window[0]), float(window[1]), float(window[2]), float(window[3])),
            width=width,
            height=height,
        ),
        head_box=_moved_box(frame.head, window, size),
        background=background,
    )


def _moved_box(head: Window | None, window: Window, size: tuple[int, int]) -> Float32[np.ndarray, " 4"]:
    """The head square in pixels of the cut picture, clipped to it; zeros when less than half of it is inside."""
    nothing = np.zeros(4, np.float32)
    if head is None:
        return nothing
    scale = np.array([size[0] / (window[2] - window[0]), size[1] / (window[3] - window[1])] * 2)
    box = (np.array(head) - np.array([window[0], window[1]] * 2)) * scale
    inside = np.clip(box, 0, [size[0], size[1]] * 2)
    area, visible = np.prod(box[2:] - box[:2]), np.prod(inside[2:] - inside[:2])
    return inside.astype(np.float32) if visible >= 0.5 * area and visible > 0 else nothing


def _cut(
    frame: _Decoded, window: Window, *, size: tuple[int, int], background: float
) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """Cuts, resizes with premultiplied alpha (no fringe of the old background), and composites.

    Work on 8 bits until the picture is small: this is where a loader spends its time.
    """
    height, width = frame.alpha.shape
    x0, y0, x1, y1 = window
    inner = (slice(max(y0, 0), max(0, min(y1, height))), slice(max(x0, 0), max(0, min(x1, width))))
    alpha = frame.alpha[inner]
    if alpha.size == 0:
        cut = np.zeros((y1 - y0, x1 - x0, 4), np.uint8)
    else:
        colour = cv2.multiply(frame.image[inner], cv2.merge([alpha, alpha, alpha]), scale=1 / 255)
        edges = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
        cut = cv2.copyMakeBorder(cv2.merge([colour, alpha]), *edges, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
    shrinks = size[0] < x1 - x0 or size[1] < y1 - y0
    resized = cv2.resize(cut, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    unit = resized.astype(np.float32) * np.float32(1 / 255)
    coverage = np.ascontiguousarray(unit[..., 3])
    image = unit[..., :3] + np.float32(background) * (1 - unit[..., 3:])
    return np.minimum(image, 1, out=image), coverage


def _keep_top_rows(view: View, share: float) -> View:
    """The upper `share` of a source on white, moved down to the bottom edge; the camera moves with it."""
    height = view.alpha.shape[0]
    kept = max(1, min(height, round(share * height)))
    shift = height - kept
    image, alpha = np.ones_like(view.image), np.zeros_like(view.alpha)
    image[shift:], alpha[shift:] = view.image[:kept], view.alpha[:kept]
    intrinsics = view.intrinsics.copy()
    intrinsics[1, 2] += shift
    head_box = view.head_box + np.array([0, shift, 0, shift], np.float32) if view.head_box.any() else view.head_box
    return View(
        image=image, alpha=alpha, intrinsics=intrinsics, head_box=np.clip(head_box, 0, None), background=view.background
    )
