"""numba kernels of the CPU rasteriser: binning of splats into tiles, compositing, and its hand-written backward.

A splat is one row of ten floats: mean x, mean y (px), conic xx, xy, yy (1/px^2), opacity, red, green, blue, depth.
Tiles are `TILE` px squares; a splat is listed, in order of depth, in every tile that the ellipse of its alpha cut-off
can touch. Kernels walk the list with pixels in the inner loop, so that the compiler vectorises rows of a tile.
Every kernel releases the GIL and works on a span of tiles; the caller spreads spans over threads.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, no_type_check

import numba
import numpy as np

TILE = 16
SPLAT_SIZE = 10
_FEATURES = 4  # red, green, blue, depth

_logger = logging.getLogger(__name__)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles `function`, with machine code cached on disk where any place for it is writable."""
    plain = inspect.unwrap(function)
    options = {"nogil": True, "fastmath": True, "error_model": "numpy", "boundscheck": False}
    try:
        return numba.njit(cache=True, **options)(plain)
    except RuntimeError:  # numba found neither the package folder nor the user's cache folder writable
        _logger.info("no writable folder for compiled kernels: %s is compiled anew in each process", plain.__name__)
        return numba.njit(**options)(plain)


@_compiled
@no_type_check
def exp_negative(x):
    """exp(x) for x <= 0 by 2^n * polynomial (relative error 2e-7), written so that loops over it vectorise."""
    x = max(x, np.float32(-87.0))
    whole = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - whole * np.float32(0.693359375)
    r = r - whole * np.float32(-2.12194440e-4)
    p = np.float32(1.3981999507e-3) + r * np.float32(1.9875691500e-4)
    p = np.float32(8.3334519073e-3) + r * p
    p = np.float32(4.1665795894e-2) + r * p
    p = np.float32(1.6666665459e-1) + r * p
    p = np.float32(5.0000001201e-1) + r * p
    p = np.float32(1.0) + r + r * r * p
    bits = np.int32(np.int32(whole) + np.int32(127)) << np.int32(23)
    return p * np.int32(bits).view(np.float32)


@_compiled
@no_type_check
def tile_ranges(splats, width, height, alpha_cutoff):
    """The tiles x0, y0, x1, y1 (end excluded) that each splat touches; [N, 4] int32, empty for undrawn splats."""
    num_tiles_x, num_tiles_y = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    ranges = np.zeros((len(splats), 4), np.int32)
    for i in range(len(splats)):
        mean_x, mean_y, xx, xy, yy, opacity = splats[i, :6]
        determinant = xx * yy - xy * xy
        if not (opacity >= alpha_cutoff and determinant > 0):
            continue
        extent = 2 * np.log(opacity / alpha_cutoff) / determinant
        radius_x, radius_y = np.sqrt(extent * yy), np.sqrt(extent * xx)
        # Pixel centres lie half a pixel inside a tile's border; the rest of that half guards against rounding.
        first_x = max(0.0, np.floor((mean_x - radius_x - 0.25) / TILE))
        first_y = max(0.0, np.floor((mean_y - radius_y - 0.25) / TILE))
        end_x = min(float(num_tiles_x), np.floor((mean_x + radius_x + 0.25) / TILE) + 1)
        end_y = min(float(num_tiles_y), np.floor((mean_y + radius_y + 0.25) / TILE) + 1)
        if first_x < end_x and first_y < end_y:
            ranges[i, 0], ranges[i, 1], ranges[i, 2], ranges[i, 3] = first_x, first_y, end_x, end_y
    return ranges


@_compiled
@no_type_check
def bin_splats(ranges, order, num_tiles_x, num_tiles_y):
    """Offsets [tiles + 1] and splat indices [pairs]: each tile's splats in the given order (front to back)."""
    offsets = np.zeros(num_tiles_x * num_tiles_y + 1, np.int64)
    for i in range(len(ranges)):
        for y in range(ranges[i, 1], ranges[i, 3]):
            for x in range(ranges[i, 0], ranges[i, 2]):
                offsets[y * num_tiles_x + x + 1] += 1
    for tile in range(len(offsets) - 1):
        offsets[tile + 1] += offsets[tile]
    ids = np.empty(offsets[-1], np.int32)
    cursor = offsets[:-1].copy()
    for i in order:
        for y in range(ranges[i, 1], ranges[i, 3]):
            for x in range(ranges[i, 0], ranges[i, 2]):
                tile = y * num_tiles_x + x
                ids[cursor[tile]] = i
                cursor[tile] += 1
    return offsets, ids


@_compiled
@no_type_check
def row_span(splat, top, num_rows, alpha_cutoff):
    """The rows [first, end) of a tile that starts at pixel row `top` which the splat's cut-off ellipse touches."""
    xx, xy, yy = splat[2], splat[3], splat[4]
    extent = max(np.float32(0), np.float32(2) * np.log(splat[5] / alpha_cutoff)) / (xx * yy - xy * xy)
    radius = np.sqrt(extent * xx) + np.float32(0.25)
    first = np.ceil(splat[1] - radius - np.float32(0.5)) - np.float32(top)
    end = np.floor(splat[1] + radius - np.float32(0.5)) - np.float32(top) + np.float32(1)
    return int(max(first, np.float32(0))), int(min(end, np.float32(num_rows)))


@_compiled
@no_type_check
def composite_tiles(
    first_tile, end_tile, offsets, ids, splats, alpha_cutoff, max_alpha, min_transmittance, image, transmittance, last
):
    """Composites tiles [first_tile, end_tile) into image [4, H, W], transmittance [H, W] and last [H, W] (int32).

    `last` is the position in the tile's list of the last splat that a pixel shows, -1 where there is none.
    """
    height, width = transmittance.shape
    num_tiles_x = (width + TILE - 1) // TILE
    zero, one = np.float32(0), np.float32(1)
    light = np.empty((TILE, TILE), np.float32)
    live = np.empty((TILE, TILE), np.float32)
    sums = np.empty((_FEATURES, TILE, TILE), np.float32)
    shown = np.empty((TILE, TILE), np.int32)
    for tile in range(first_tile, end_tile):
        left, top = tile % num_tiles_x * TILE, tile // num_tiles_x * TILE
        num_rows = min(TILE, height - top)
        num_columns = min(TILE, width - left)
        light[:], live[:], sums[:], shown[:] = one, one, zero, -1
        begin, end = offsets[tile], offsets[tile + 1]
        for position in range(begin, end):
            splat = splats[ids[position]]
            xx, xy, yy, opacity = splat[2], splat[3], splat[4], splat[5]
            red, green, blue, depth = splat[6], splat[7], splat[8], splat[9]
            to_left = splat[0] - np.float32(left) - np.float32(0.5)
            first_row, end_row = row_span(splat, top, num_rows, alpha_cutoff)
            number = np.int32(position - begin)
            for y in range(first_row, end_row):
                dy = splat[1] - np.float32(top + y) - np.float32(0.5)
                for x in range(TILE):
                    dx = to_left - np.float32(x)
                    exponent = np.float32(0.5) * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                    alpha = min(opacity * exp_negative(-max(exponent, zero)), max_alpha)
                    alpha = alpha * live[y, x] if alpha >= alpha_cutoff else zero
                    before = light[y, x]
                    after = before * (one - alpha)
                    stays = after > min_transmittance
                    live[y, x] = live[y, x] if stays else zero
                    alpha = alpha if stays else zero
                    light[y, x] = after if stays else before
                    shown[y, x] = number if alpha > zero else shown[y, x]
                    weight = alpha * before
                    sums[0, y, x] += weight * red
                    sums[1, y, x] += weight * green
                    sums[2, y, x] += weight * blue
                    sums[3, y, x] += weight * depth
            if number % 32 == 31 and not live[:num_rows, :num_columns].any():
                break
        for y in range(num_rows):
            for x in range(num_columns):
                transmittance[top + y, left + x] = light[y, x]
                last[top + y, left + x] = shown[y, x]
                for feature in range(_FEATURES):
                    image[feature, top + y, left + x] = sums[feature, y, x]


@_compiled
@no_type_check
def load_tile(left, top, transmittance, last, grad_image, grad_transmittance, light, behind, shown, grads):
    """Fills the tile's buffers from the images; returns the deepest list position that any of its pixels shows."""
    height, width = transmittance.shape
    light[:], behind[:], shown[:], grads[:] = 1, 0, -1, 0
    deepest = -1
    for y in range(min(TILE, height - top)):
        for x in range(min(TILE, width - left)):
            light[y, x] = transmittance[top + y, left + x]
            shown[y, x] = last[top + y, left + x]
            deepest = max(deepest, shown[y, x])
            behind[y, x] = grad_transmittance[top + y, left + x] * light[y, x]
            for feature in range(_FEATURES):
                grads[feature, y, x] = grad_image[feature, top + y, left + x]
    return deepest


@_compiled
@no_type_check
def composite_tiles_backward(
    first_tile, end_tile, offsets, ids, splats, alpha_cutoff, max_alpha, transmittance, last, grad_image,
    grad_transmittance, grad_pairs,
):  # fmt: skip
    """Gradients of the splats, one row of grad_pairs [pairs, 10] per (tile, splat), for tiles [first_tile, end_tile).

    Pixels are walked back to front. With w = alpha * T the weight of a splat, T the light before it and S what all
    splats behind it and the remaining light contribute to the loss: dL/dalpha = T * (g . c) - S / (1 - alpha).
    """
    height, width = transmittance.shape
    num_tiles_x = (width + TILE - 1) // TILE
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    light = np.empty((TILE, TILE), np.float32)
    behind = np.empty((TILE, TILE), np.float32)
    shown = np.empty((TILE, TILE), np.int32)
    grads = np.empty((_FEATURES, TILE, TILE), np.float32)
    for tile in range(first_tile, end_tile):
        left, top = tile % num_tiles_x * TILE, tile // num_tiles_x * TILE
        num_rows = min(TILE, height - top)
        deepest = load_tile(left, top, transmittance, last, grad_image, grad_transmittance, light, behind, shown, grads)
        begin = offsets[tile]
        for position in range(begin + deepest + 1, offsets[tile + 1]):
            grad_pairs[position] = zero
        for number in range(deepest, -1, -1):
            splat = splats[ids[begin + number]]
            xx, xy, yy, opacity = splat[2], splat[3], splat[4], splat[5]
            red, green, blue, depth = splat[6], splat[7], splat[8], splat[9]
            to_left = splat[0] - np.float32(left) - half
            g_dx, g_dy, g_xx, g_xy, g_yy, g_opacity = zero, zero, zero, zero, zero, zero
            g_red, g_green, g_blue, g_depth = zero, zero, zero, zero
            first_row, end_row = row_span(splat, top, num_rows, alpha_cutoff)
            for y in range(first_row, end_row):
                dy = splat[1] - np.float32(top + y) - half
                for x in range(TILE):
                    dx = to_left - np.float32(x)
                    exponent = half * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                    bell = exp_negative(-max(exponent, zero))
                    full = opacity * bell
                    alpha = min(full, max_alpha)
                    alpha = alpha if (alpha >= alpha_cutoff and shown[y, x] >= number) else zero
                    passed = one / (one - alpha)
                    before = light[y, x] * passed
                    weight = alpha * before
                    along = (
                        grads[0, y, x] * red + grads[1, y, x] * green
                        + grads[2, y, x] * blue + grads[3, y, x] * depth
                    )  # fmt: skip
                    g_alpha = before * along - behind[y, x] * passed
                    g_alpha = g_alpha if (alpha > zero and full <= max_alpha) else zero
                    light[y, x] = before
                    behind[y, x] += weight * along
                    g_opacity += g_alpha * bell
                    g_exponent = -g_alpha * full
                    g_dx += g_exponent * (xx * dx + xy * dy)
                    g_dy += g_exponent * (yy * dy + xy * dx)
                    g_xx += g_exponent * dx * dx
                    g_xy += g_exponent * dx * dy
                    g_yy += g_exponent * dy * dy
                    g_red += weight * grads[0, y, x]
                    g_green += weight * grads[1, y, x]
                    g_blue += weight * grads[2, y, x]
                    g_depth += weight * grads[3, y, x]
            row = grad_pairs[begin + number]
            row[0], row[1], row[2], row[3], row[4], row[5] = g_dx, g_dy, half * g_xx, g_xy, half * g_yy, g_opacity
            row[6], row[7], row[8], row[9] = g_red, g_green, g_blue, g_depth


@_compiled
@no_type_check
def sum_pairs(ids, grad_pairs, grad_splats):
    """Adds the rows of `grad_pairs` to their splats, always in the same order, so that results do not depend on
    the number of threads."""
    for position in range(len(ids)):
        for column in range(SPLAT_SIZE):
            grad_splats[ids[position], column] += grad_pairs[position, column]
