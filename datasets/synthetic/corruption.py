"""Ways to spoil a clip or what was found in it, with known strength: what gates must notice.

Pixels: blur, darkness, bars before the person. Records: a wrong matte, shaken or mirrored keypoints, shaken poses. Each
draws its strength from `rng` between hardly visible and ruinous, so that some of the spoiled tracks stay good.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.codecs import decode_png, encode_png
from lhmforge.datasets.records import AlphaCrop, Keypoints


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelCorruption:
    """What is done to every frame; `hidden` marks pixels that show something else than before."""

    kind: str
    blur_px: float
    brightness: float
    noise: float
    hidden: Bool[np.ndarray, "H W"]
    cover: UInt8[np.ndarray, " 3"]  # colour of what hides

    def apply(self, frame: UInt8[np.ndarray, "H W 3"], index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The spoiled frame; the noise of frame `index` is always the same."""
        result = frame
        if self.hidden.any():
            result = np.where(self.hidden[..., None], self.cover, result)
        if self.blur_px > 0:
            result = cv2.GaussianBlur(result, (0, 0), self.blur_px)
        if self.brightness < 1:
            grain = np.random.default_rng(index).normal(size=result.shape).astype(np.float32) * self.noise
            result = np.clip(np.rint(result * np.float32(self.brightness) + grain), 0, 255)
        return np.ascontiguousarray(result, np.uint8)

    def visible_truth(self, alpha: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """The true matte of what is still to be seen."""
        return np.where(self.hidden, 0, alpha).astype(np.uint8)


PIXEL_KINDS = ("blur", "low_light", "bars")


def pixel_corruption(
    kind: str, rng: np.random.Generator, *, height: int, width: int, box_px: Float32[np.ndarray, " 4"]
) -> PixelCorruption:
    """A corruption of `PIXEL_KINDS` for a person in `box_px`; bars stand still and cover 10 to 60 % of the box."""
    hidden = np.zeros((height, width), bool)
    blur, brightness, noise = 0.0, 1.0, 0.0
    tall = float(box_px[3] - box_px[1])
    if kind == "blur":
        blur = tall * float(np.exp(rng.uniform(np.log(0.004), np.log(0.04))))
    elif kind == "low_light":
        brightness, noise = float(np.exp(rng.uniform(np.log(0.03), np.log(0.3)))), float(rng.uniform(2, 6))
    else:
        assert kind == "bars", f"no pixel corruption is called {kind}"
        _add_bars(hidden, rng, box_px)
    cover = rng.integers(20, 235, 3).astype(np.uint8)
    return PixelCorruption(kind=kind, blur_px=blur, brightness=brightness, noise=noise, hidden=hidden, cover=cover)


def wrong_mattes(alphas: tuple[AlphaCrop, ...], rng: np.random.Generator) -> tuple[AlphaCrop, ...]:
    """All mattes grown, eaten, cut at a side, or moved, by the same share of the person's size."""
    way, share = str(rng.choice(["grow", "eat", "cut", "move"])), float(rng.uniform(0.01, 0.35))
    side = int(rng.integers(4))
    return tuple(_wrong_matte(crop, way, share, side) for crop in alphas)


def shaken_keypoints(keypoints: Keypoints, boxes_px: Float32[np.ndarray, "N 4"], rng: np.random.Generator) -> Keypoints:
    """Every point moved at random in every frame, by 1 to 10 % of the box height; the landmarks by as much."""
    sigma = float(np.exp(rng.uniform(np.log(0.01), np.log(0.1))))
    heights = (boxes_px[:, 3] - boxes_px[:, 1])[:, None, None]
    moved = keypoints.points_px + sigma * heights * rng.normal(size=keypoints.points_px.shape)
    landmarks = keypoints.landmarks_m + 1.7 * sigma * rng.normal(size=keypoints.landmarks_m.shape)
    return replace(keypoints, points_px=moved.astype(np.float32), landmarks_m=landmarks.astype(np.float32))


def mirrored_keypoints(keypoints: Keypoints, mirror: Int64[np.ndarray, " 133"], rng: np.random.Generator) -> Keypoints:
    """Left and right exchanged in all frames or in one stretch of them; `mirror` names every point's counterpart."""
    count = keypoints.num_frames
    first, end = sorted(rng.integers(0, count + 1, 2).tolist()) if rng.random() < 0.5 else (0, count)
    frames = np.zeros(count, bool)
    frames[first:end] = True
    points, scores = keypoints.points_px.copy(), keypoints.scores.copy()
    points[frames], scores[frames] = points[frames][:, mirror], scores[frames][:, mirror]
    landmarks, seen = keypoints.landmarks_m.copy(), keypoints.landmark_scores.copy()
    if keypoints.landmark_set == "mediapipe_33":
        pairs = [(1, 4), (2, 5), (3, 6), (7, 8), (9, 10), *((left, left + 1) for left in range(11, 33, 2))]
        index = np.arange(33)
        for left, right in pairs:
            index[left], index[right] = right, left
        landmarks[frames], seen[frames] = landmarks[frames][:, index], seen[frames][:, index]
    return replace(keypoints, points_px=points, scores=scores, landmarks_m=landmarks, landmark_scores=seen)


def shaken_pose(body: BodyParams, rng: np.random.Generator) -> BodyParams:
    """Every body joint turned at random in every frame, by 0.03 to 0.5 radians."""
    sigma = float(np.exp(rng.uniform(np.log(0.03), np.log(0.5))))
    pose = body.body_pose + sigma / np.sqrt(3) * rng.normal(size=body.body_pose.shape)
    return replace(body, body_pose=pose.astype(np.float32))


def _add_bars(hidden: Bool[np.ndarray, "H W"], rng: np.random.Generator, box: Float32[np.ndarray, " 4"]) -> None:
    x0, y0, x1, y1 = (float(edge) for edge in box)
    share = float(rng.uniform(0.1, 0.6))
    if rng.random() < 0.5:  # one bar across, like a table or a fence
        top = y0 + float(rng.uniform(0, 1 - share)) * (y1 - y0)
        hidden[max(0, round(top)) : max(0, round(top + share * (y1 - y0)))] = True
        return
    number = int(rng.integers(1, 4))
    thick = share * (x1 - x0) / number
    for left in rng.uniform(x0, x1 - thick, number):
        hidden[:, max(0, round(left)) : max(0, round(left + thick))] = True


def _wrong_matte(crop: AlphaCrop, way: str, share: float, side: int) -> AlphaCrop:
    alpha = decode_png(crop.png, what="matte")
    height, width = alpha.shape
    if way in ("grow", "eat"):
        size = max(1, round(0.25 * share * height))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * size + 1, 2 * size + 1))
        alpha = (cv2.dilate if way == "grow" else cv2.erode)(alpha, kernel)
    elif way == "cut":
        rows, columns = round(share * height), round(share * width)
        alpha = alpha.copy()
        empty = (
            (slice(0, rows), slice(None)),
            (slice(height - rows, None), slice(None)),
            (slice(None), slice(0, columns)),
            (slice(None), slice(width - columns, None)),
        )[side]
        alpha[empty] = 0
    else:
        shift = round(share * width) * (1 if side % 2 else -1)
        alpha = cv2.warpAffine(alpha, np.array([[1, 0, shift], [0, 1, 0]], np.float64), (width, height))
    return replace(crop, png=encode_png(np.asarray(alpha, np.uint8)))
