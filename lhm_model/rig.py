"""The rig beside an exported avatar: what linear blend skinning needs to pose the Gaussians of its .ply file.

`rig.npz` holds the arrays, `rig.json` says in words what they are. Other programs can pose the avatar with these alone;
`RiggedAvatar` does so quickly on a CPU.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64

from lhmforge.datasets import storage
from lhmforge.datasets.body.joints import JOINT_NAMES, NUM_JOINTS
from lhmforge.datasets.body.lbs import axis_angle_to_matrix, joint_chain, skinning_transforms
from lhmforge.datasets.body.model import full_pose
from lhmforge.datasets.body.motion_file import with_expression_size
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.codecs import encode_npz
from lhmforge.datasets.errors import BodyError
from lhmforge.lhm_model.ply import GaussianCloud, read_ply
from lhmforge.lhm_model.render_projection import rotation_matrices
from lhmforge.lhm_model.rotations import nearest_rotation

RIG_VERSION = 2  # 2: joints follow the expression as well
AVATAR_FILE, RIG_FILE = "avatar.ply", "rig.npz"
_POLAR_STEPS = 2  # Newton steps; a blend of rotations 90 degrees apart is orthonormal within 0.2 % after two


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """Skinning of `N` Gaussians that stand in the zero pose of SMPL-X with the person's shape; metres, y up."""

    weights: Float32[np.ndarray, "N J"]
    joints_rest_m: Float32[np.ndarray, "J 3"]
    parents: Int64[np.ndarray, " J"]
    expression_directions_m: Float32[np.ndarray, "N 3 E"]
    joint_expression_directions_m: Float32[np.ndarray, "J 3 E"]
    betas: Float32[np.ndarray, " S"]

    def __post_init__(self) -> None:
        for field in fields(self):
            if not np.isfinite(getattr(self, field.name)).all():
                raise BodyError(f"rig: {field.name} holds a value that is not finite")
        if len(self.parents) != NUM_JOINTS or self.weights.shape[1] != NUM_JOINTS:
            raise BodyError(f"rig: {len(self.parents)} joints, {self.weights.shape[1]} weights; expected {NUM_JOINTS}")
        if not np.allclose(self.weights.sum(1), 1.0, atol=1e-3):
            raise BodyError("rig: the weights of a Gaussian must sum to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PosedSplats:
    """Where the Gaussians of one pose are, as a splat renderer takes them."""

    means: Float32[np.ndarray, "N 3"]
    covariances: Float32[np.ndarray, "N 3 3"]


class RiggedAvatar:
    """A .ply cloud and its rig, posed by linear blend skinning in numbers that a live viewer can afford."""

    def __init__(self, cloud: GaussianCloud, rig: Rig) -> None:
        if len(cloud.means) != len(rig.weights):
            raise BodyError(
                f"the .ply holds {len(cloud.means)} Gaussians, the rig {len(rig.weights)}: they are not of one avatar"
            )
        self.cloud, self.rig = cloud, rig
        self._means, self._weights = torch.from_numpy(cloud.means), torch.from_numpy(rig.weights)
        self._directions = torch.from_numpy(rig.expression_directions_m)
        self._axes = _axes(cloud)

    @classmethod
    def load(cls, folder: Path) -> RiggedAvatar:
        """Reads what `write_avatar` wrote; raises `ShardError` or `BodyError` naming the file."""
        return cls(read_ply(folder / AVATAR_FILE), read_rig(folder / RIG_FILE))

    @torch.no_grad()
    def pose(self, body: BodyParams) -> PosedSplats:
        """The first frame of `body`, with the avatar's own shape, in the world of `body`."""
        expression = torch.from_numpy(with_expression_size(body, self._directions.shape[-1]).expression[0])
        joints = torch.from_numpy(self.rig.joints_rest_m)
        means = self._means
        if bool(expression.any()):
            joints = joints + torch.from_numpy(self.rig.joint_expression_directions_m) @ expression
            means = means + self._directions @ expression
        rotations = axis_angle_to_matrix(torch.from_numpy(full_pose(body))[0])
        posed = joint_chain(rotations, joints, tuple(self.rig.parents.tolist()))
        transforms = skinning_transforms(posed, joints)[:, :3]
        blended = (self._weights @ transforms.flatten(1)).unflatten(1, (3, 4))
        turned = nearest_rotation(blended[..., :3], iterations=_POLAR_STEPS) @ self._axes
        moved = (blended[..., :3] @ means[..., None])[..., 0] + blended[..., 3] + torch.from_numpy(body.transl[0])
        return PosedSplats(means=moved.numpy(), covariances=(turned @ turned.mT).numpy())


def write_rig(folder: Path, rig: Rig) -> Path:
    """Writes `rig.npz` and the `rig.json` that explains it; returns the first."""
    path = folder / RIG_FILE
    arrays = {"version": np.array(RIG_VERSION, np.int64)} | {f.name: getattr(rig, f.name) for f in fields(rig)}
    storage.publish(path, (encode_npz(arrays),))
    description = {
        "version": RIG_VERSION,
        "joint_names": list(JOINT_NAMES),
        "arrays": {name: list(array.shape) for name, array in arrays.items()},
        "pose": "zero pose of SMPL-X with the person's betas; metres, y up, facing +z; row i: vertex i of the ply",
    }
    storage.publish(folder / "rig.json", (json.dumps(description, indent=1).encode() + b"\n",))
    return path


def read_rig(path: Path) -> Rig:
    """Inverse of `write_rig`; raises `BodyError` for a file that is missing, torn, of another version or odd."""
    if not path.is_file():
        raise BodyError(f"{path}: no such rig; `lhmforge animate` writes one beside the avatar")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BodyError(f"{path}: not a readable npz of plain arrays ({error})") from error
    version = arrays.pop("version", np.zeros(1)).ravel()
    if version.tolist() != [RIG_VERSION]:
        raise BodyError(
            f"{path}: version {version.tolist()}, this program reads {RIG_VERSION}; run `lhmforge animate` again"
        )
    expected = {field.name for field in fields(Rig)}
    if set(arrays) != expected:
        raise BodyError(f"{path}: expected the arrays {sorted(expected)}, found {sorted(arrays)}")
    return Rig(**arrays)


def _axes(cloud: GaussianCloud) -> torch.Tensor:
    """Per Gaussian the matrix R S, whose product with its transpose is the covariance."""
    return rotation_matrices(torch.from_numpy(cloud.rotations)) * torch.from_numpy(cloud.scales)[:, None, :]
