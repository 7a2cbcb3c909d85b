"""Numba kernels of the triangle rasteriser: coverage with a z-buffer, and what the light meets there.

Import this module only from inside a function: numba takes a second to import.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, no_type_check

import numba
import numpy as np


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine code for the bare function (run-time type checkers wrap it), cached where a folder is writable."""
    bare = inspect.unwrap(function)
    try:
        return numba.njit(cache=True, nogil=True)(bare)
    except RuntimeError:  # numba finds neither this folder nor the user's cache folder writable
        return numba.njit(nogil=True)(bare)


@_compiled
@no_type_check
def cover(points_px, depth, faces, near, face_id, inverse_depth, bary):
    """Nearest face per pixel centre, with perspective-correct barycentrics of its first two corners."""
    height, width = face_id.shape
    for t in range(faces.shape[0]):
        i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
        if depth[i] < near or depth[j] < near or depth[k] < near:
            continue
        ax, ay = points_px[i, 0], points_px[i, 1]
        bx, by = points_px[j, 0], points_px[j, 1]
        cx, cy = points_px[k, 0], points_px[k, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        x0 = max(int(np.floor(min(ax, bx, cx) - 0.5)), 0)
        x1 = min(int(np.ceil(max(ax, bx, cx) - 0.5)), width - 1)
        y0 = max(int(np.floor(min(ay, by, cy) - 0.5)), 0)
        y1 = min(int(np.ceil(max(ay, by, cy) - 0.5)), height - 1)
        inverse = 1.0 / area
        wi, wj, wk = 1.0 / depth[i], 1.0 / depth[j], 1.0 / depth[k]
        for y in range(y0, y1 + 1):
            py = y + 0.5
            for x in range(x0, x1 + 1):
                px = x + 0.5
                u = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * inverse
                v = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inverse
                w = 1.0 - u - v
                if u < -1e-6 or v < -1e-6 or w < -1e-6:
                    continue
                z = u * wi + v * wj + w * wk
                if z <= inverse_depth[y, x]:
                    continue
                inverse_depth[y, x] = z
                face_id[y, x] = t
                bary[y, x, 0] = u * wi / z
                bary[y, x, 1] = v * wj / z


@_compiled
@no_type_check
def surface_at(
    face_id,
    bary,
    faces,
    vertices,
    normals,
    face_uv,
    face_texture,
    texels,
    texture_start,
    texture_size,
    light,
    shadow_inverse_depth,
    shadow_rotation,
    shadow_shift,
    shadow_scale,
    albedo,
    normal_out,
    texture_at,
    lit_out,
):
    """What the light meets per pixel: colour 0..255, unit normal to the viewer, texture coordinates, 5x5 shadow."""
    height, width = face_id.shape
    shadow_size = shadow_inverse_depth.shape[0]
    point = np.empty(3, np.float32)
    normal = np.empty(3, np.float32)
    for y in range(height):
        for x in range(width):
            t = face_id[y, x]
            if t < 0:
                continue
            u, v = bary[y, x, 0], bary[y, x, 1]
            w = 1.0 - u - v
            i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
            for c in range(3):
                point[c] = u * vertices[i, c] + v * vertices[j, c] + w * vertices[k, c]
                normal[c] = u * normals[i, c] + v * normals[j, c] + w * normals[k, c]
            length = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2) + 1e-9
            facing = (normal[0] * point[0] + normal[1] * point[1] + normal[2] * point[2]) / length
            sign = 1.0 / length
            if facing > 0.25 * point[2]:  # the inside of a garment
                sign = -sign
            cosine = 0.0
            for c in range(3):
                normal_out[y, x, c] = sign * normal[c]
                cosine += sign * normal[c] * light[c]
            if cosine > -0.3:
                sx, sy, sz = shadow_shift[0], shadow_shift[1], shadow_shift[2]
                for c in range(3):
                    sx += shadow_rotation[0, c] * point[c]
                    sy += shadow_rotation[1, c] * point[c]
                    sz += shadow_rotation[2, c] * point[c]
                px, py = shadow_scale * sx / sz + shadow_size / 2, shadow_scale * sy / sz + shadow_size / 2
                blocked = 0.0
                for oy in range(-2, 3):
                    for ox in range(-2, 3):
                        qx, qy = int(px) + ox, int(py) + oy
                        inside = 0 <= qx < shadow_size and 0 <= qy < shadow_size
                        if inside and shadow_inverse_depth[qy, qx] > 1.0 / (sz - 0.03):
                            blocked += 1.0
                lit_out[y, x] = 1.0 - blocked / 25.0
            s = u * face_uv[t, 0, 0] + v * face_uv[t, 1, 0] + w * face_uv[t, 2, 0]
            q = 1.0 - (u * face_uv[t, 0, 1] + v * face_uv[t, 1, 1] + w * face_uv[t, 2, 1])
            texture_at[y, x, 0], texture_at[y, x, 1] = s - np.floor(s), q - np.floor(q)
            m = face_texture[t]
            size, start = texture_size[m], texture_start[m]
            fx, fy = texture_at[y, x, 0] * size - 0.5, texture_at[y, x, 1] * size - 0.5
            x0, y0 = int(np.floor(fx)), int(np.floor(fy))
            ax, ay = fx - x0, fy - y0
            xa, xb, ya, yb = x0 % size, (x0 + 1) % size, y0 % size, (y0 + 1) % size
            for c in range(3):
                top = (
                    texels[start + (ya * size + xa) * 3 + c] * (1 - ax) + texels[start + (ya * size + xb) * 3 + c] * ax
                )
                low = (
                    texels[start + (yb * size + xa) * 3 + c] * (1 - ax) + texels[start + (yb * size + xb) * 3 + c] * ax
                )
                albedo[y, x, c] = top * (1 - ay) + low * ay


@_compiled
@no_type_check
def vertex_normals(vertices, faces):
    """Area-weighted vertex normals, not normalised."""
    normals = np.zeros_like(vertices)
    for t in range(faces.shape[0]):
        i, j, k = faces[t, 0], faces[t, 1], faces[t, 2]
        ax, ay, az = vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2]
        bx, by, bz = vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for v in (i, j, k):
            normals[v, 0] += nx
            normals[v, 1] += ny
            normals[v, 2] += nz
    return normals
