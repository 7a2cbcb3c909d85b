"""Motions that drive a body: from an SMPL-X npz, an AMASS npz, or a curated sample.

A `Motion` is upright in OpenCV axes (y down) whatever its source was, and its `transl` is the pelvis' way since the
first frame, so it fits a person of any shape at any place.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from scipy.spatial.transform import Rotation, Slerp

from lhmforge.datasets.body.params import NUM_EXPRESSION, BodyParams
from lhmforge.datasets.draws import build_index
from lhmforge.datasets.errors import BodyError
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.sample import StoredSample, parse_sample
from lhmforge.datasets.shards import read_sample

UNKNOWN_RATE_HZ = 30.0  # of a file that does not say its frame rate
_MAX_ANGLE_RAD = 4 * np.pi  # rotation vectors of a continuous motion may wind up, but not further
_Z_UP_TO_Y_DOWN = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float64)
_RATE_NAMES = ("fps", "mocap_framerate", "mocap_frame_rate")
_ROTATIONS = tuple(f.name for f in fields(BodyParams) if f.name not in ("betas", "expression", "transl"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """A motion at `fps` frames per second; `body.betas` are those of its source and are not meant to be used."""

    name: str
    body: BodyParams
    fps: float


def load_motion(source: str) -> Motion:
    """The motion that `source` names: `FILE.npz` or `MANIFEST.parquet#KEY`.

    An npz holds the arrays of `BodyParams` (OpenCV axes; `fps` optional), or AMASS's `poses` and `trans` (z up).
    Raises `BodyError` naming the file and what is wrong: missing arrays, a wrong number of joints, NaN, no frames;
    `ShardError` for a manifest or key that does not exist.
    """
    path, _, key = source.partition("#")
    if path.endswith(".parquet"):
        if not key:
            raise BodyError(f"motion {source}: name a sample as {path}#KEY (the column `key` of the manifest)")
        return _of_sample(_read_curated(path, key))
    try:
        body, rate = _of_file(Path(path))
    except BodyError as error:
        raise BodyError(f"motion {path}: {error}") from None
    return Motion(name=Path(path).stem, body=_from_origin(body), fps=rate)


def resample(motion: Motion, fps: float) -> Motion:
    """The motion at another rate: rotations along great arcs, the rest linearly."""
    body = motion.body
    if body.num_frames == 1:
        return replace(motion, fps=fps)
    times = np.arange(body.num_frames) / motion.fps
    wanted = np.arange(0.0, times[-1] + 1e-9, 1.0 / fps)
    rotations = {name: _slerp(getattr(body, name), times, wanted) for name in _ROTATIONS}
    linear = {name: _interpolate(getattr(body, name), times, wanted) for name in ("expression", "transl")}
    return replace(motion, body=replace(body, **rotations, **linear), fps=fps)


def with_expression_size(body: BodyParams, size: int) -> BodyParams:
    """The first `size` expression coefficients; missing ones are zero (they are ordered by importance)."""
    kept = body.expression[:, :size]
    return replace(body, expression=np.pad(kept, ((0, 0), (0, size - kept.shape[1]))))


def _of_file(path: Path) -> tuple[BodyParams, float]:
    arrays = _read_npz(path)
    rate = _rate(arrays)
    if not 1.0 <= rate <= 1000.0:
        raise BodyError(f"a frame rate of {rate} Hz is not plausible; expected 1 .. 1000")
    body = _of_amass(arrays) if "poses" in arrays else _of_params(arrays)
    if body.num_frames == 0:
        raise BodyError("it has no frames")
    largest = max(float(np.abs(getattr(body, name)).max()) for name in _ROTATIONS)
    if largest > _MAX_ANGLE_RAD:
        raise BodyError(f"it turns joints by up to {largest:.0f} radians; are its angles in degrees?")
    return body, rate


def _rate(arrays: Mapping[str, np.ndarray]) -> float:
    """Frames per second as the file says; some writers store it as an array of one."""
    for name in _RATE_NAMES:
        if name in arrays:
            if arrays[name].size != 1 or arrays[name].dtype.kind not in "fiu":
                raise BodyError(f"{name} is {arrays[name]!r}; expected one number, the frame rate in Hz")
            return float(arrays[name].reshape(-1)[0])
    return UNKNOWN_RATE_HZ


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise BodyError("no such file")
    wanted = {f.name for f in fields(BodyParams)} | {"poses", "trans", *_RATE_NAMES}
    try:
        with np.load(path, allow_pickle=False) as archive:  # AMASS files hold text too, which stays unread
            return {name: archive[name] for name in archive.files if name in wanted}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise BodyError(f"not a readable npz of plain arrays ({error})") from error


def _of_params(arrays: Mapping[str, np.ndarray]) -> BodyParams:
    named = {name: value for name, value in arrays.items() if name not in _RATE_NAMES}
    shapes = {"body_pose": (21, 3), "left_hand_pose": (15, 3), "right_hand_pose": (15, 3)}
    expected = {f.name for f in fields(BodyParams)}
    if set(named) != expected:
        raise BodyError(
            f"missing arrays {sorted(expected - set(named))}; expected those of BodyParams, or AMASS's "
            "`poses` and `trans`"
        )
    for name in (*_ROTATIONS, "transl"):
        shape = shapes.get(name, (3,))
        if named[name].shape[1:] != shape:
            raise BodyError(f"{name} has shape {named[name].shape}, expected (frames, *{shape})")
    return BodyParams.from_arrays(named)


def _of_amass(arrays: Mapping[str, np.ndarray]) -> BodyParams:
    """AMASS: SMPL-X (165 values a frame), SMPL-H (156), or SMPL, whose body joints (66) are taken."""
    poses, trans = arrays["poses"], arrays.get("trans")
    if trans is None or poses.ndim != 2 or trans.shape != (len(poses), 3):
        found = None if trans is None else trans.shape
        raise BodyError(f"poses has shape {poses.shape}, trans {found}; expected (frames, P), (frames, 3)")
    if poses.shape[1] not in (165, 156, 72, 66):
        raise BodyError(
            f"poses has {poses.shape[1]} values a frame ({poses.shape[1] / 3:g} joints); expected "
            "165 (SMPL-X), 156 (SMPL-H), 72 (SMPL) or 66 (body joints)"
        )
    face = poses[:, 66:75] if poses.shape[1] == 165 else np.zeros((len(poses), 9))
    hands = poses[:, -90:] if poses.shape[1] >= 156 else np.zeros((len(poses), 90))
    body = BodyParams(
        betas=np.zeros(10, np.float32),
        expression=np.zeros((len(poses), NUM_EXPRESSION), np.float32),
        global_orient=poses[:, :3].astype(np.float32),
        body_pose=poses[:, 3:66].astype(np.float32).reshape(-1, 21, 3),
        jaw_pose=face[:, :3].astype(np.float32),
        leye_pose=face[:, 3:6].astype(np.float32),
        reye_pose=face[:, 6:].astype(np.float32),
        left_hand_pose=hands[:, :45].astype(np.float32).reshape(-1, 15, 3),
        right_hand_pose=hands[:, 45:].astype(np.float32).reshape(-1, 15, 3),
        transl=trans.astype(np.float32),
    )
    return _turned(body, _Z_UP_TO_Y_DOWN)


def _read_curated(manifest_path: str, key: str) -> StoredSample:
    index = build_index(Manifest.load(manifest_path), [key])
    return parse_sample(read_sample(index.shard_uris[int(index.shard_of[0])], index.entries[0]))


def _of_sample(sample: StoredSample) -> Motion:
    """The sample's body as its first camera sees it; dropped frames are interpolated."""
    indices, rate = sample.meta["frame_indices"], sample.meta["fps"]
    assert isinstance(indices, list) and isinstance(rate, float | int)
    numbers = np.array(indices)
    step = int(np.median(np.diff(numbers))) if len(numbers) > 1 else 1
    fps = max(1.0, float(rate) / max(1, step))
    body = _from_origin(_turned(sample.body, sample.world_to_camera[0, :3, :3].astype(np.float64)))
    if len(numbers) > 1 and (np.diff(numbers) > 0).all():
        times = (numbers - numbers[0]) / float(rate)
        wanted = np.arange(0.0, times[-1] + 1e-9, 1.0 / fps)
        rotations = {name: _slerp(getattr(body, name), times, wanted) for name in _ROTATIONS}
        linear = {name: _interpolate(getattr(body, name), times, wanted) for name in ("expression", "transl")}
        body = replace(body, **rotations, **linear)
    return Motion(name=sample.key, body=body, fps=fps)


def _turned(body: BodyParams, rotation: Float[np.ndarray, "3 3"]) -> BodyParams:
    """Another frame of reference; translations are meaningful as differences only (the pelvis is not at the origin)."""
    turned = Rotation.from_matrix(rotation) * Rotation.from_rotvec(body.global_orient.astype(np.float64))
    return replace(
        body,
        global_orient=turned.as_rotvec().astype(np.float32),
        transl=(body.transl.astype(np.float64) @ rotation.T).astype(np.float32),
    )


def _from_origin(body: BodyParams) -> BodyParams:
    return replace(body, transl=body.transl - body.transl[:1])


def _slerp(
    values: Float32[np.ndarray, "N *j 3"], times: Float[np.ndarray, " N"], wanted: Float[np.ndarray, " M"]
) -> Float32[np.ndarray, "M *j 3"]:
    joints = values.reshape(len(values), -1, 3).astype(np.float64)
    moved = [Slerp(times, Rotation.from_rotvec(joints[:, j]))(wanted).as_rotvec() for j in range(joints.shape[1])]
    return np.stack(moved, axis=1).reshape(len(wanted), *values.shape[1:]).astype(np.float32)


def _interpolate(
    values: Float32[np.ndarray, "N C"], times: Float[np.ndarray, " N"], wanted: Float[np.ndarray, " M"]
) -> Float32[np.ndarray, "M C"]:
    columns = [np.interp(wanted, times, values[:, column]) for column in range(values.shape[1])]
    return np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((len(wanted), 0), np.float32)
