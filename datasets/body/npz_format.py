"""Reads and checks a file in the SMPL-X npz format, whatever its vertex count, and says what is wrong with it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from lhmforge.datasets.body.joints import NUM_JOINTS, PARENTS
from lhmforge.datasets.body.surface_points import find_surface_points
from lhmforge.datasets.errors import BodyError

REQUIRED = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
NUM_POSE_FEATURES = (NUM_JOINTS - 1) * 9


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyArrays:
    """The checked content of a body file; shape and expression columns are still side by side in `shapedirs`."""

    v_template: Float32[np.ndarray, "V 3"]
    faces: Int64[np.ndarray, "F 3"]
    shapedirs: Float32[np.ndarray, "V 3 C"]
    num_shape_columns: int
    posedirs: Float32[np.ndarray, "V 3 486"]
    J_regressor: Float32[np.ndarray, "55 V"]
    weights: Float32[np.ndarray, "V 55"]
    parents: tuple[int, ...]
    extra_vertices: tuple[tuple[str, int], ...]
    uv: Float32[np.ndarray, "T 2"] | None
    uv_faces: Int64[np.ndarray, "F 3"] | None
    face_landmark_faces: Int64[np.ndarray, " L"] | None
    face_landmark_bary: Float32[np.ndarray, "L 3"] | None


def read_body_file(path: Path) -> BodyArrays:
    """Arrays of the file at `path`; raises `BodyError` naming the array, its shape and what would be legal."""
    raw = _load(path, (*REQUIRED, "num_shape_columns", "vt", "ft", "mp478_faces_idx", "mp478_bary"))
    v_template = raw["v_template"].astype(np.float32)
    num_vertices = len(v_template)
    _check(path, raw, num_vertices)
    weights, regressor = raw["weights"].astype(np.float32), raw["J_regressor"].astype(np.float32)
    faces = raw["f"].astype(np.int64)
    has_uv = "vt" in raw and "ft" in raw and raw["ft"].shape == faces.shape
    has_landmarks = "mp478_faces_idx" in raw and "mp478_bary" in raw and raw["mp478_bary"].ndim == 2
    columns = raw["shapedirs"].shape[-1]
    num_shape = int(raw["num_shape_columns"]) if "num_shape_columns" in raw else (300 if columns >= 400 else 10)
    return BodyArrays(
        v_template=v_template,
        faces=faces,
        shapedirs=raw["shapedirs"].astype(np.float32),
        num_shape_columns=min(num_shape, columns),
        posedirs=raw["posedirs"].astype(np.float32),
        J_regressor=regressor,
        weights=weights,
        parents=PARENTS,
        extra_vertices=find_surface_points(v_template, weights, regressor @ v_template),
        uv=raw["vt"].astype(np.float32) if has_uv else None,
        uv_faces=raw["ft"].astype(np.int64) if has_uv else None,
        face_landmark_faces=raw["mp478_faces_idx"].astype(np.int64) if has_landmarks else None,
        face_landmark_bary=raw["mp478_bary"].astype(np.float32) if has_landmarks else None,
    )


def _load(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise BodyError(f"{path}: no such body model file")
    try:
        if not zipfile.is_zipfile(path):
            hint = "a .pkl body? only the .npz release is read" if path.suffix == ".pkl" else "torn or another format"
            raise BodyError(f"{path}: not a readable .npz archive ({hint})")
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in REQUIRED if name not in archive.files]
            if missing:
                raise BodyError(f"{path}: arrays {missing} are missing; an SMPL-X npz file has {list(REQUIRED)}")
            return {name: archive[name] for name in names if name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BodyError(f"{path}: not a readable .npz archive: {error}") from error


def _check(path: Path, raw: dict[str, np.ndarray], num_vertices: int) -> None:
    expected: dict[str, tuple[int | None, ...]] = {
        "v_template": (num_vertices, 3),
        "f": (None, 3),
        "shapedirs": (num_vertices, 3, None),
        "posedirs": (num_vertices, 3, NUM_POSE_FEATURES),
        "J_regressor": (NUM_JOINTS, num_vertices),
        "weights": (num_vertices, NUM_JOINTS),
        "kintree_table": (2, NUM_JOINTS),
    }
    for name, shape in expected.items():
        found = raw[name].shape
        legal = len(found) == len(shape) and all(want in (None, got) for want, got in zip(shape, found, strict=True))
        if not legal:
            text = " x ".join("any" if n is None else str(n) for n in shape)
            raise BodyError(f"{path}: {name} has shape {found}, expected {text} (an SMPL or SMPL-H file?)")
        if raw[name].dtype.kind == "f" and not np.isfinite(raw[name]).all():
            raise BodyError(f"{path}: {name} holds a value that is not finite")
    parents = tuple(int(p) for p in raw["kintree_table"][0][1:])
    if parents != PARENTS[1:]:
        raise BodyError(f"{path}: kintree_table is not the joint tree of SMPL-X")
    if raw["f"].size == 0 or raw["f"].min() < 0 or raw["f"].max() >= num_vertices:
        raise BodyError(f"{path}: f names vertices outside 0..{num_vertices - 1}")
    if np.abs(raw["weights"].sum(1) - 1).max() > 1e-3:
        raise BodyError(f"{path}: skinning weights of a vertex do not sum to 1")
