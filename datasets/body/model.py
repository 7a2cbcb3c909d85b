"""One body model class for every file in the SMPL-X npz format: the licensed model, the free body, or a toy.

Format: `v_template` [V,3], `f` [F,3], `shapedirs` [V,3,S+E], `posedirs` [V,3,486], `J_regressor` [55,V],
`weights` [V,55], `kintree_table` [2,55]. With 400 columns or more, shape takes the first 300 and expression the rest;
with fewer, shape takes the first 10 (the layout of the two public releases), unless `num_shape_columns` says
otherwise. Maths: SMPL-X (Pavlakos et al. 2019), section 3.1: shape, expression and pose blendshapes, then skinning.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lhmforge.datasets.batch import BodyBatch
from lhmforge.datasets.body.joints import NUM_JOINTS, PARENTS
from lhmforge.datasets.body.lbs import axis_angle_to_matrix, joint_chain, skin_points, skinning_transforms
from lhmforge.datasets.body.npz_format import BodyArrays, read_body_file
from lhmforge.datasets.body.params import NUM_BETAS, NUM_EXPRESSION, BodyParams
from lhmforge.datasets.errors import BodyError


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyOutput:
    """A posed body; `transforms` take shaped rest points to the posed body (translation included)."""

    vertices: Float[Tensor, "B V 3"]
    joints: Float[Tensor, "B 55 3"]
    transforms: Float[Tensor, "B 55 4 4"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BodyModel:
    """An SMPL-X-format body of any vertex count, float32, never modified after loading.

    `digest` is the sha256 of the file; `topology_digest` covers vertex count and faces only, for things that are bound
    to a mesh (query points). `uv` and `uv_faces` are the texture layout; `face_landmark_faces`/`_bary` embed the 478
    MediaPipe face landmarks; `extra_vertices` name single surface points (finger tips, toes, heels, nose, ears).
    """

    digest: str
    topology_digest: str
    source: str
    v_template: Float[Tensor, "V 3"]
    faces: Int64[Tensor, "F 3"]
    shapedirs: Float[Tensor, "V 3 S"]
    exprdirs: Float[Tensor, "V 3 E"]
    posedirs: Float[Tensor, "486 V3"]
    J_regressor: Float[Tensor, "55 V"]
    weights: Float[Tensor, "V 55"]
    parents: tuple[int, ...]
    joints_template: Float[Tensor, "55 3"]
    joints_shapedirs: Float[Tensor, "55 3 S"]
    joints_exprdirs: Float[Tensor, "55 3 E"]
    extra_vertices: tuple[tuple[str, int], ...]
    uv: Float[Tensor, "T 2"] | None
    uv_faces: Int64[Tensor, "F 3"] | None
    face_landmark_faces: Int64[Tensor, " L"] | None
    face_landmark_bary: Float[Tensor, "L 3"] | None

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        num_betas: int = NUM_BETAS,
        num_expression: int = NUM_EXPRESSION,
        expected_digest: str | None = None,
    ) -> BodyModel:
        """Reads a body file; raises `BodyError` for a missing, torn or foreign file, or another digest."""
        arrays = read_body_file(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if expected_digest is not None and digest != expected_digest:
            raise BodyError(
                f"{path}: sha256 is {digest}, expected {expected_digest}: the data belong to another body model file"
            )
        return _from_arrays(arrays, digest=digest, source=str(path), num_betas=num_betas, num_expression=num_expression)

    @property
    def num_vertices(self) -> int:
        return len(self.v_template)

    @property
    def num_betas(self) -> int:
        return int(self.shapedirs.shape[-1])

    @property
    def num_expression(self) -> int:
        return int(self.exprdirs.shape[-1])

    @property
    def dominant_joint(self) -> Int64[Tensor, " V"]:
        """Per vertex, the joint with the largest skinning weight: the part label of the vertex."""
        return self.weights.argmax(dim=1)

    def to(self, device: torch.device | str) -> BodyModel:
        """The same body with its tensors on `device`."""
        clone = replace(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                object.__setattr__(clone, field.name, value.to(device))  # the clone is not shared yet
        return clone

    def joints_rest(
        self, betas: Float[Tensor, "B S"], expression: Float[Tensor, "B E"] | None = None
    ) -> Float[Tensor, "B 55 3"]:
        """Joint positions of the shaped body in the zero pose, metres; betas beyond those given count as zero."""
        joints = self.joints_template + torch.einsum("bs,jcs->bjc", betas, self._columns(self.joints_shapedirs, betas))
        if expression is not None:
            joints = joints + torch.einsum(
                "be,jce->bjc", expression, self._columns(self.joints_exprdirs, expression, "expression")
            )
        return joints

    def vertices_rest(
        self, betas: Float[Tensor, "B S"], expression: Float[Tensor, "B E"] | None = None
    ) -> Float[Tensor, "B V 3"]:
        """Vertices of the shaped body in the zero pose, metres."""
        vertices = self.v_template + torch.einsum("bs,vcs->bvc", betas, self._columns(self.shapedirs, betas))
        if expression is not None:
            columns = self._columns(self.exprdirs, expression, "expression")
            vertices = vertices + torch.einsum("be,vce->bvc", expression, columns)
        return vertices

    def joint_transforms(
        self,
        *,
        betas: Float[Tensor, "B S"],
        full_pose: Float[Tensor, "B 55 3"],
        transl: Float[Tensor, "B 3"],
        expression: Float[Tensor, "B E"] | None = None,
    ) -> Float[Tensor, "B 55 4 4"]:
        """Per joint, the transform from shaped rest space to the posed body, without touching vertices."""
        rest = self.joints_rest(betas, expression)
        posed = _translated(joint_chain(axis_angle_to_matrix(full_pose), rest, self.parents), transl)
        return skinning_transforms(posed, rest)

    def forward(
        self,
        *,
        betas: Float[Tensor, "B S"],
        full_pose: Float[Tensor, "B 55 3"],
        transl: Float[Tensor, "B 3"],
        expression: Float[Tensor, "B E"] | None = None,
        pose_correctives: bool = True,
    ) -> BodyOutput:
        """Posed vertices and joints in metres; `full_pose` is axis-angle in SMPL-X order (see `full_pose`)."""
        rest = self.joints_rest(betas, expression)
        rotations = axis_angle_to_matrix(full_pose)
        posed = _translated(joint_chain(rotations, rest, self.parents), transl)
        transforms = skinning_transforms(posed, rest)
        vertices = self.vertices_rest(betas, expression)
        if pose_correctives:
            vertices = vertices + self.pose_offsets(rotations)
        return BodyOutput(
            vertices=skin_points(vertices, self.weights, transforms), joints=posed[..., :3, 3], transforms=transforms
        )

    def pose_offsets(self, rotations: Float[Tensor, "B 55 3 3"]) -> Float[Tensor, "B V 3"]:
        """Pose-corrective offsets in rest space for the rotation of every joint but the root."""
        identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        feature = (rotations[:, 1:] - identity).flatten(1)
        return (feature @ self.posedirs).reshape(len(rotations), self.num_vertices, 3)

    def pose(self, params: BodyParams, *, pose_correctives: bool = True) -> BodyOutput:
        """The body in every frame of a track; no gradient, on the device of this model."""

        def as_tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(np.asarray(array, np.float32), device=self.v_template.device)

        with torch.no_grad():
            return self.forward(
                betas=as_tensor(params.betas)[None].expand(params.num_frames, -1),
                full_pose=as_tensor(full_pose(params)),
                transl=as_tensor(params.transl),
                expression=as_tensor(params.expression),
                pose_correctives=pose_correctives,
            )

    def _columns(self, directions: Tensor, coefficients: Tensor, name: str = "betas") -> Tensor:
        given, available = coefficients.shape[-1], directions.shape[-1]
        if given > available:
            raise BodyError(f"{given} {name} given, but {self.source} was loaded with {available}")
        return directions[..., :given]


@overload
def full_pose(body: BodyParams) -> np.ndarray: ...
@overload
def full_pose(body: BodyBatch) -> Tensor: ...
def full_pose(body: BodyParams | BodyBatch) -> np.ndarray | Tensor:
    """Axis-angle of all 55 joints, [N,55,3] or [B,V,55,3]: global, body 21, jaw, eyes, left hand, right hand."""
    single = ("global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose", "left_hand_pose", "right_hand_pose")
    parts = [getattr(body, name) for name in single]
    if isinstance(body, BodyBatch):
        return torch.cat([p if p.dim() == body.body_pose.dim() else p[..., None, :] for p in parts], dim=-2)
    return np.concatenate([p if p.ndim == body.body_pose.ndim else p[..., None, :] for p in parts], axis=-2)


def _translated(transforms: Float[Tensor, "B J 4 4"], transl: Float[Tensor, "B 3"]) -> Float[Tensor, "B J 4 4"]:
    shift = torch.nn.functional.pad(transl, (0, 1))
    last_column = transforms[..., 3] + shift[:, None]
    return torch.cat([transforms[..., :3], last_column[..., None]], dim=-1)


def _from_arrays(arrays: BodyArrays, *, digest: str, source: str, num_betas: int, num_expression: int) -> BodyModel:
    num_shape, num_expr = arrays.num_shape_columns, arrays.shapedirs.shape[-1] - arrays.num_shape_columns
    for name, wanted, available in (("betas", num_betas, num_shape), ("expression", num_expression, num_expr)):
        if wanted > available:
            raise BodyError(f"{source}: {wanted} {name} components asked for, the file has {available}")
    assert arrays.weights.shape[1] == NUM_JOINTS and arrays.parents == PARENTS
    shapedirs = torch.from_numpy(np.ascontiguousarray(arrays.shapedirs[..., :num_betas]))
    exprdirs = torch.from_numpy(np.ascontiguousarray(arrays.shapedirs[..., num_shape : num_shape + num_expression]))
    regressor, v_template = torch.from_numpy(arrays.J_regressor), torch.from_numpy(arrays.v_template)
    topology = hashlib.sha256(np.int64(len(v_template)).tobytes() + arrays.faces.tobytes()).hexdigest()
    return BodyModel(
        digest=digest,
        topology_digest=topology,
        source=source,
        v_template=v_template,
        faces=torch.from_numpy(arrays.faces),
        shapedirs=shapedirs,
        exprdirs=exprdirs,
        posedirs=torch.from_numpy(np.ascontiguousarray(arrays.posedirs.reshape(-1, arrays.posedirs.shape[-1]).T)),
        J_regressor=regressor,
        weights=torch.from_numpy(arrays.weights),
        parents=arrays.parents,
        joints_template=regressor @ v_template,
        joints_shapedirs=torch.einsum("jv,vcs->jcs", regressor, shapedirs),
        joints_exprdirs=torch.einsum("jv,vce->jce", regressor, exprdirs),
        extra_vertices=arrays.extra_vertices,
        uv=_optional(arrays.uv),
        uv_faces=_optional(arrays.uv_faces),
        face_landmark_faces=_optional(arrays.face_landmark_faces),
        face_landmark_bary=_optional(arrays.face_landmark_bary),
    )


def _optional(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array)
