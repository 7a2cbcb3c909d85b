"""Renders dressed people over a background: anti-aliased colours, one soft matte per person, and depth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.cameras import crop_and_resize_intrinsics
from lhmforge.datasets.synthetic.raster import Light, Surface, rasterise
from lhmforge.datasets.synthetic.shading import shade

_SUPERSAMPLING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A surface with its vertices in one frame, camera axes, metres."""

    surface: Surface
    vertices: Float32[np.ndarray, "V 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedFrame:
    """8-bit sRGB image, one matte per figure, and depth in metres (0: background).

    `boxes_px` are the figures' boxes as if nobody stood before them, inside the picture; `visible` is the share of a
    figure's pixels that nobody hides (0: out of the picture).
    """

    image: UInt8[np.ndarray, "H W 3"]
    alphas: UInt8[np.ndarray, "P H W"]
    depth: Float32[np.ndarray, "H W"]
    boxes_px: Float32[np.ndarray, "P 4"]
    visible: Float32[np.ndarray, " P"]


def render_frame(
    figures: tuple[Figure, ...],
    intrinsics: Float32[np.ndarray, "3 3"],
    background: Float32[np.ndarray, "H W 3"],
    light: Light,
) -> RenderedFrame:
    """The figures in front of `background` (0..1); nearer figures hide farther ones."""
    height, width = background.shape[:2]
    image = background.copy()
    alphas = np.zeros((len(figures), height, width), np.float32)
    nearest = np.zeros((height, width), np.float32)
    layers = [_Layer.of(figure, intrinsics, width, height, light) for figure in figures]
    order = sorted(range(len(figures)), key=lambda i: -float(np.median(figures[i].vertices[:, 2])))
    for index in order:  # far to near; people do not interpenetrate
        layer = layers[index]
        if layer is None:
            continue
        window = (slice(layer.y0, layer.y1), slice(layer.x0, layer.x1))
        keep = 1 - layer.alpha
        image[window] = image[window] * keep[..., None] + layer.premultiplied
        alphas[(slice(None), *window)] *= keep
        alphas[(index, *window)] = layer.alpha
        nearest[window] = np.where(layer.inverse_depth > 0, layer.inverse_depth, nearest[window])
    depth = np.where(nearest > 0, 1 / np.maximum(nearest, 1e-9), 0).astype(np.float32)
    alone = np.array([layer.alpha.sum() if layer is not None else 0.0 for layer in layers])
    boxes = [(layer.x0, layer.y0, layer.x1, layer.y1) if layer is not None else (0, 0, 0, 0) for layer in layers]
    return RenderedFrame(
        image=_to_bytes(image),
        alphas=_to_bytes(alphas),
        depth=depth,
        boxes_px=np.array(boxes, np.float32).reshape(-1, 4),
        visible=(alphas.sum((1, 2)) / np.maximum(alone, 1e-6)).astype(np.float32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    x0: int
    y0: int
    x1: int
    y1: int
    premultiplied: Float32[np.ndarray, "h w 3"]
    alpha: Float32[np.ndarray, "h w"]
    inverse_depth: Float32[np.ndarray, "h w"]

    @classmethod
    def of(
        cls, figure: Figure, intrinsics: Float32[np.ndarray, "3 3"], width: int, height: int, light: Light
    ) -> _Layer | None:
        """The figure alone in the window it fills; None when it is out of the picture."""
        vertices = figure.vertices
        depth = np.maximum(vertices[:, 2], 1e-3)
        pixels = vertices[:, :2] / depth[:, None] * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]
        x0, y0 = np.maximum(np.floor(pixels.min(0)).astype(int), 0).tolist()
        x1, y1 = np.minimum(np.ceil(pixels.max(0)).astype(int), (width, height)).tolist()
        if x1 <= x0 or y1 <= y0:
            return None
        s = _SUPERSAMPLING
        wide, tall = (x1 - x0) * s, (y1 - y0) * s
        window = (float(x0), float(y0), float(x1), float(y1))
        scaled = crop_and_resize_intrinsics(intrinsics, window_px=window, width=wide, height=tall)
        coverage = rasterise(vertices, figure.surface.faces, scaled, width=wide, height=tall)
        colour = np.clip(shade(coverage, vertices, figure.surface, light), 0, 1)
        size = (x1 - x0, y1 - y0)
        covered = (coverage.face_id >= 0).astype(np.float32)
        return cls(
            x0=x0,
            y0=y0,
            x1=x1,
            y1=y1,
            premultiplied=cv2.resize(colour, size, interpolation=cv2.INTER_AREA),
            alpha=cv2.resize(covered, size, interpolation=cv2.INTER_AREA),
            inverse_depth=coverage.inverse_depth[::s, ::s],
        )


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
