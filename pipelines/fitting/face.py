"""Jaw and expression from blendshape coefficients.

A body file that carries `arkit_to_expression` (the free body does) turns the 52 ARKit coefficients into expression
components exactly; its jaw stays closed because opening the mouth is one of those shapes. Other files get the jaw
angle alone: their expression basis has no published relation to ARKit coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

NUM_BLENDSHAPES = 52
_JAW_OPEN_RAD = 0.35  # rotation of the SMPL-X jaw at a coefficient of 1
_SMOOTHING_S = 0.08


@dataclass(frozen=True, slots=True, kw_only=True)
class FacePose:
    """Per frame: expression components, and the jaw's axis-angle."""

    expression: Float64[np.ndarray, "N E"]
    jaw: Float64[np.ndarray, "N 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpressionMap:
    """Expression components and jaw-opening per blendshape, for one body file; coefficients in `names` order."""

    matrix: Float64[np.ndarray, "E 52"]
    jaw_rad: Float64[np.ndarray, " 52"]


# MediaPipe's order of the 52 coefficients: "_neutral" first, then ARKit's names in alphabetical order, no tongue.
BLENDSHAPE_NAMES = (
    "_neutral",
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight"),
    *("eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight"),
    *("eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight"),
    *("eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight"),
    *("jawForward", "jawLeft", "jawOpen", "jawRight"),
    *("mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel"),
    *("mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker"),
    *("mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *("mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight"),
    *("mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight"),
)


def read_expression_map(path: Path, num_expression: int) -> ExpressionMap:
    """The map of a body file; names that the file lacks have no effect."""
    matrix, jaw = np.zeros((num_expression, NUM_BLENDSHAPES)), np.zeros(NUM_BLENDSHAPES)
    with np.load(path, allow_pickle=False) as content:
        if not {"arkit_to_expression", "arkit_names"} <= set(content.files):
            jaw[BLENDSHAPE_NAMES.index("jawOpen")] = _JAW_OPEN_RAD
            return ExpressionMap(matrix=matrix, jaw_rad=jaw)
        table, names = content["arkit_to_expression"], [str(name) for name in content["arkit_names"]]
    for column, name in enumerate(names):
        if name in BLENDSHAPE_NAMES:
            matrix[:, BLENDSHAPE_NAMES.index(name)] = table[:num_expression, column]
    return ExpressionMap(matrix=matrix, jaw_rad=jaw)


def fit_face(
    blendshapes: Float64[np.ndarray, "N S"], times_s: Float64[np.ndarray, " N"], mapping: ExpressionMap
) -> FacePose:
    """Expression and jaw per frame; frames whose coefficients are all zero (no face) follow their neighbours."""
    num_frames = len(times_s)
    coefficients = np.zeros((num_frames, NUM_BLENDSHAPES))
    if blendshapes.shape[1] == NUM_BLENDSHAPES:
        values = np.nan_to_num(blendshapes)
        seen = values.any(1)
        if seen.any():
            coefficients = np.stack([np.interp(times_s, times_s[seen], column[seen]) for column in values.T], 1)
            coefficients = _smooth(coefficients, times_s)
    jaw = np.zeros((num_frames, 3))
    jaw[:, 0] = coefficients @ mapping.jaw_rad
    return FacePose(expression=coefficients @ mapping.matrix.T, jaw=jaw)


def _smooth(values: Float64[np.ndarray, "N S"], times_s: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, "N S"]:
    """Gaussian mean over neighbouring times (no lag)."""
    reach = int(np.ceil(3 * _SMOOTHING_S / max(float(np.median(np.diff(times_s))), 1e-3))) if len(times_s) > 1 else 0
    total, weight = np.zeros_like(values), np.zeros((len(values), 1))
    for offset in range(-reach, reach + 1):
        first, end = max(0, -offset), min(len(values), len(values) - offset)
        if first >= end:
            continue
        gap = times_s[first + offset : end + offset] - times_s[first:end]
        share = np.exp(-0.5 * (gap / _SMOOTHING_S) ** 2)[:, None]
        total[first:end] += share * values[first + offset : end + offset]
        weight[first:end] += share
    result: np.ndarray = total / weight if reach else values
    return result
