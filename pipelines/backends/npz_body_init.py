"""Body initialisation from a regressor of the user's: SMPL-X parameters per frame, read from npz.

`spec.weights` is one npz, or a folder with one npz per track named KEY.npz (`Track.key`), else one per source named
SOURCE_ID.npz. Arrays: `frame_indices` int [M] (absolute), `transl` [M, 3] (metres, OpenCV camera axes), `betas` [B] or
[M, B], and the pose as `global_orient` [M, 3] with `body_pose` [M, 63] or [M, 21, 3] (axis-angle, radians), or as
`rotations` [M, 22, 3, 3]. With several persons per file, `boxes_px` [M, 4] picks per frame the row that overlaps the
track's box most; a row that overlaps less than half is not this person.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32

from lhmforge.datasets.codecs import decode_npz
from lhmforge.datasets.errors import BackendError, ShardError
from lhmforge.datasets.records import Clip, Keypoints, Track
from lhmforge.pipelines.backends.roles import BackendSpec, BodyStart
from lhmforge.pipelines.backends.user_weights import user_weights
from lhmforge.pipelines.backends.weights import digest, user_file
from lhmforge.pipelines.boxes import iou

_MIN_IOU = 0.5


class NpzBodyInit:
    """`BodyInitialiser`; files are read per track."""

    def __init__(self, spec: BackendSpec) -> None:
        self._folder = Path(spec.weights).expanduser() if spec.weights else Path()
        if not (spec.weights and self._folder.is_dir()):
            self._folder = user_file(spec, "body_init")

    def start(self, clip: Clip, track: Track, keypoints: Keypoints) -> BodyStart:
        path = self._file(track)
        if path is None:
            return _no_start(len(track.frame_indices))
        try:
            arrays = decode_npz(path.read_bytes(), what=str(path))
        except ShardError as error:
            raise BackendError(f"body_init 'npz': {error}") from error
        return _start(arrays, track, path)

    def weight_digests(self) -> Sequence[str]:
        if self._folder.is_file():
            return (digest(self._folder),)
        return tuple(digest(path) for path in sorted(self._folder.glob("*.npz")))

    def _file(self, track: Track) -> Path | None:
        """The track's file; None when the folder has none for it, and the fitter starts from landmarks."""
        if self._folder.is_file():
            return self._folder
        names = (track.key, track.clip.video.source.source_id)
        return next((path for name in names if (path := self._folder / f"{name}.npz").is_file()), None)


def npz_body_init(spec: BackendSpec) -> NpzBodyInit:
    """Factory; raises `BackendError` that describes the file when none is named."""
    return NpzBodyInit(spec)


def _start(arrays: dict[str, np.ndarray], track: Track, path: Path) -> BodyStart:
    frame_indices = _array(arrays, "frame_indices", path).astype(np.int64)
    rotations, transl = _rotations(arrays, path), _array(arrays, "transl", path)
    for name, value, tail in (("rotations", rotations, (22, 3, 3)), ("transl", transl, (3,))):
        if value.shape != (len(frame_indices), *tail):
            raise BackendError(f"{path}: {name} has shape {value.shape}, expected {(len(frame_indices), *tail)}")
    start = _no_start(len(track.frame_indices))
    start = dataclasses.replace(start, betas=_betas(arrays, path))
    for position, (frame, box) in enumerate(zip(track.frame_indices, track.boxes_px, strict=True)):
        row = _row(arrays, np.flatnonzero(frame_indices == frame), box)
        if row is not None and np.isfinite(rotations[row]).all() and np.isfinite(transl[row]).all():
            start.rotations[position], start.transl[position] = rotations[row], transl[row]
            start.valid[position] = True
    return start


def _row(arrays: dict[str, np.ndarray], rows: np.ndarray, box: Float32[np.ndarray, 4]) -> int | None:
    if len(rows) == 0:
        return None
    if "boxes_px" not in arrays:
        return int(rows[0])
    overlap = iou(arrays["boxes_px"][rows].astype(np.float32), box[None])[:, 0]
    return int(rows[overlap.argmax()]) if overlap.max() >= _MIN_IOU else None


def _rotations(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    if "rotations" in arrays:
        return arrays["rotations"].astype(np.float32)
    orient = _array(arrays, "global_orient", path).reshape(-1, 1, 3)
    body = _array(arrays, "body_pose", path).reshape(len(orient), -1, 3)
    if body.shape[1] != 21:
        raise BackendError(f"{path}: body_pose has {body.shape[1]} joints, expected 21")
    angles = np.concatenate([orient, body], axis=1).astype(np.float64)
    matrices = [[cv2.Rodrigues(angle)[0] for angle in frame] for frame in angles]
    return np.array(matrices, np.float32).reshape(-1, 22, 3, 3)


def _betas(arrays: dict[str, np.ndarray], path: Path) -> Float32[np.ndarray, " B"]:
    betas = _array(arrays, "betas", path).astype(np.float32)
    return betas if betas.ndim == 1 else np.median(betas, axis=0).astype(np.float32)


def _array(arrays: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    if name not in arrays:
        row = user_weights("body_init", "npz")
        raise BackendError(
            f"{path} has no array {name!r}; it has {', '.join(sorted(arrays))}. Expected: {row.file_format}"
        )
    return arrays[name]


def _no_start(count: int) -> BodyStart:
    """Identity rotations, nothing valid: the fitter starts from landmarks."""
    return BodyStart(
        rotations=np.tile(np.eye(3, dtype=np.float32), (count, 22, 1, 1)),
        transl=np.zeros((count, 3), np.float32),
        betas=np.zeros(10, np.float32),
        valid=np.zeros(count, bool),
    )
