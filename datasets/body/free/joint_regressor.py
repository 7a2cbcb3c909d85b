"""Fits the joint regressor: each joint as a weighted mean of nearby surface vertices, over many shapes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import nnls

from lhmforge.datasets.body.joints import NUM_JOINTS, PARENTS, joint

_SUM_WEIGHT, _RIDGE = 30.0, 0.05
_CONVEX_LIMIT_M = 0.004
_SECTORS, _PER_SECTOR = 16, 16


def fit_joint_regressor(
    vertices: Float64[np.ndarray, "N V 3"],
    joints: Float64[np.ndarray, "N 55 3"],
    weights: Float64[np.ndarray, "V 55"],
) -> Float64[np.ndarray, "55 V"]:
    """Rows sum to 1 and are sparse; negative entries appear only where no convex mean reaches the joint."""
    mean_vertices, mean_joints = vertices.mean(0), joints.mean(0)
    regressor = np.zeros((NUM_JOINTS, vertices.shape[1]))
    for j in range(NUM_JOINTS):
        chosen = _candidates(j, mean_vertices, mean_joints, weights)
        regressor[j, chosen] = _fit_row(vertices[:, chosen], joints[:, j])
    return regressor


def _candidates(
    j: int, vertices: Float64[np.ndarray, "V 3"], joints: Float64[np.ndarray, "55 3"], weights: np.ndarray
) -> Int64[np.ndarray, " C"]:
    """The nearest vertices in each sector around the bone, on this limb only."""
    if j in (joint("left_eye"), joint("right_eye")):
        return np.flatnonzero(weights[:, j] > 0.9)
    children = [c for c in range(NUM_JOINTS) if PARENTS[c] == j]
    near = [k for k in (j, PARENTS[j], *children) if k >= 0]
    limb = np.flatnonzero(weights[:, near].sum(1) > 0.05)
    offset = vertices[limb] - joints[j]
    distance = np.linalg.norm(offset, axis=1)
    along = joints[children].mean(0) - joints[j] if children else joints[j] - joints[PARENTS[j]]
    first = np.cross(along, (0.31, 0.27, 0.9))
    second = np.cross(along, first) / np.linalg.norm(along)
    angle = np.arctan2(offset @ second, offset @ first)
    sector = ((angle + np.pi) / (2 * np.pi) * _SECTORS).astype(np.int64) % _SECTORS
    picked = [np.flatnonzero(sector == s) for s in range(_SECTORS)]
    return np.unique(np.concatenate([limb[p[np.argsort(distance[p], kind="stable")[:_PER_SECTOR]]] for p in picked]))


def _fit_row(points: Float64[np.ndarray, "N C 3"], target: Float64[np.ndarray, "N 3"]) -> Float64[np.ndarray, " C"]:
    centre, count = points.mean((0, 1)), points.shape[1]
    matrix = np.swapaxes(points - centre, 1, 2).reshape(-1, count)
    wanted = (target - centre).reshape(-1)
    sum_row, ones = np.full((1, count), _SUM_WEIGHT), np.ones(count)
    stacked = np.concatenate([matrix, sum_row, _RIDGE * np.eye(count)])
    row, _ = nnls(stacked, np.concatenate([wanted, [_SUM_WEIGHT], 0 * ones]), maxiter=20_000)
    row = row / row.sum()
    if np.sqrt(np.mean((matrix @ row - wanted) ** 2) * 3) > _CONVEX_LIMIT_M:
        ridge = 2 * _RIDGE
        stacked = np.concatenate([matrix, sum_row, ridge * np.eye(count)])
        row = np.linalg.lstsq(stacked, np.concatenate([wanted, [_SUM_WEIGHT], ridge / count * ones]), rcond=None)[0]
        row = row / row.sum()
    result: np.ndarray = row
    return result
