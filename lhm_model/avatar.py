"""One reconstructed person: canonical Gaussians with the person's shape, posed at will, exported with a rig.

The exported cloud stands in the zero pose (T-pose) of SMPL-X with the person's shape, y up; see `rig` for what lies
beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from lhmforge.datasets.batch import BodyBatch
from lhmforge.datasets.body.motion_file import with_expression_size
from lhmforge.datasets.body.params import BodyParams
from lhmforge.lhm_model.gaussians import CanonicalGaussians, PosedGaussians
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.ply import GaussianCloud, write_ply
from lhmforge.lhm_model.rig import AVATAR_FILE, Rig, write_rig


@dataclass(frozen=True, slots=True, kw_only=True)
class Avatar:
    """The Gaussians that `model` predicted for one person, and the person's shape."""

    model: LHM
    canonical: CanonicalGaussians  # batch of one
    betas: Float32[np.ndarray, " S"]

    @torch.no_grad()
    def pose(self, body: BodyParams) -> PosedGaussians:
        """The Gaussians in every frame of `body`, with this person's shape, in the world of `body`."""
        return self.model.pose(self.canonical, self._batch(body))

    def rest_cloud(self) -> GaussianCloud:
        """The zero pose, y up, pelvis where the shape puts it."""
        return GaussianCloud.of(self.pose(BodyParams.rest(1)))

    def _batch(self, body: BodyParams) -> BodyBatch:
        skinner = self.model.skinner
        body = with_expression_size(body, skinner.exprdirs.shape[-1])
        device = skinner.rest.device
        arrays = body.to_arrays() | {"betas": _fit_length(self.betas, skinner.shapedirs.shape[-1])}
        return BodyBatch(**{name: torch.from_numpy(array)[None].to(device) for name, array in arrays.items()})


def write_avatar(folder: Path, avatar: Avatar) -> tuple[Path, Path]:
    """Writes `avatar.ply` and `rig.npz` (with `rig.json` naming joints and arrays); returns the first two."""
    cloud_path = folder / AVATAR_FILE
    write_ply(cloud_path, avatar.rest_cloud())
    return cloud_path, write_rig(folder, rig_of(avatar))


def rig_of(avatar: Avatar) -> Rig:
    """What poses the avatar's rest cloud like the model does."""
    skinner = avatar.model.skinner
    betas = torch.from_numpy(_fit_length(avatar.betas, skinner.shapedirs.shape[-1])).to(skinner.rest.device)
    joints = skinner.joints_template + torch.einsum("s,jcs->jc", betas, skinner.joints_shapedirs)
    # The release's mode does not let joints follow the expression; the rig then holds zeros.
    follow = torch.zeros_like(skinner.joints_exprdirs) if skinner.compat else skinner.joints_exprdirs
    return Rig(
        weights=_one_person(skinner.weights_at(avatar.canonical.offsets.float())).cpu().numpy(),
        joints_rest_m=joints.cpu().numpy(),
        parents=np.array(skinner.parents, np.int64),
        expression_directions_m=skinner.exprdirs.cpu().numpy(),
        joint_expression_directions_m=follow.cpu().numpy(),
        betas=betas.cpu().numpy(),
    )


def _one_person(weights: Tensor) -> Tensor:
    """[N,55] of weights that may be per person."""
    return weights[0] if weights.dim() == 3 else weights


def _fit_length(values: Float32[np.ndarray, " A"], length: int) -> Float32[np.ndarray, " B"]:
    """Shape coefficients cut or padded with zeros: they are ordered by importance."""
    return np.pad(values[:length], (0, max(0, length - len(values)))).astype(np.float32)
