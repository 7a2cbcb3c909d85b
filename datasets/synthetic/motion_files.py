"""Reads a user's motion: an AMASS / SMPL-X npz (z up) or a `body.npz` of this project (OpenCV camera axes)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from lhmforge.datasets.body.model import full_pose
from lhmforge.datasets.body.params import NUM_EXPRESSION, BodyParams
from lhmforge.datasets.errors import BodyError
from lhmforge.datasets.synthetic.motion import Motion

_RATES = ("mocap_frame_rate", "mocap_framerate", "fps")
_DEFAULT_FPS = 30.0


def read_motion(path: Path, *, num_frames: int, fps: float, start_s: float = 0.0) -> Motion:
    """`num_frames` frames at `fps` from `start_s` on, turned to y up; the last frame is held if the file is shorter.

    Raises `BodyError` naming what is missing, has the wrong shape, or is not finite.
    """
    arrays = _load(path)
    if "global_orient" in arrays:
        params = BodyParams.from_arrays({k: v for k, v in arrays.items() if k not in _RATES})
        pose, path_m, to_up = full_pose(params), params.transl, Rotation.from_euler("x", 180, degrees=True)
    else:
        pose, path_m = _amass_pose(path, arrays)
        to_up = Rotation.from_euler("x", -90, degrees=True)
    if len(pose) != len(path_m) or not (np.isfinite(pose).all() and np.isfinite(path_m).all()):
        raise BodyError(
            f"{path}: {len(pose)} poses and {len(path_m)} translations; both must be finite and equal in number"
        )
    rate = next((float(arrays[name]) for name in _RATES if name in arrays), _DEFAULT_FPS)
    frames = np.minimum(np.round((start_s + np.arange(num_frames) / fps) * rate).astype(np.int64), len(pose) - 1)
    pose, path_m = pose[frames].astype(np.float64), path_m[frames].astype(np.float64)
    pose[:, 0] = (to_up * Rotation.from_rotvec(pose[:, 0])).as_rotvec()
    path_m = to_up.apply(path_m)
    return Motion(
        name=path.stem,
        fps=fps,
        full_pose=pose.astype(np.float32),
        path=(path_m - path_m.mean(0)).astype(np.float32),
        expression=np.zeros((num_frames, NUM_EXPRESSION), np.float32),
    )


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise BodyError(f"{path}: no such motion file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            numeric = {}
            for name in archive.files:
                if name not in ("gender", "surface_model_type", "labels", "markers_latent_vids"):
                    numeric[name] = archive[name]
            return numeric
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BodyError(f"{path}: not a readable motion .npz: {error}") from error


def _amass_pose(path: Path, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if "poses" not in arrays or "trans" not in arrays:
        raise BodyError(
            f"{path}: neither an AMASS file (arrays poses, trans) nor body parameters; found {sorted(arrays)}"
        )
    poses = arrays["poses"]
    if poses.ndim != 2 or poses.shape[1] not in (156, 165):
        raise BodyError(f"{path}: poses has shape {poses.shape}; expected N x 165 (SMPL-X) or N x 156 (SMPL-H)")
    if poses.shape[1] == 165:
        return poses.reshape(-1, 55, 3), arrays["trans"]
    face = np.zeros((len(poses), 3, 3), poses.dtype)  # SMPL-H has no jaw and eyes
    joints = poses.reshape(-1, 52, 3)
    return np.concatenate([joints[:, :22], face, joints[:, 22:]], axis=1), arrays["trans"]
