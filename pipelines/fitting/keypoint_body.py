"""The part of an SMPL-X body that fitting needs: joints and a few points as small linear maps of the shape.

A point never touches the mesh while fitting: its rest position, its shape directions and its skinning weights are
read once from the body's arrays. Pose correctives are left out (millimetres at the points used here).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from lhmforge.datasets.body.joints import BODY_JOINTS, NUM_JOINTS, PARENTS
from lhmforge.datasets.body.model import BodyModel

NUM_BODY_JOINTS = len(BODY_JOINTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A point at joint `joint` plus an offset (metres, rest pose axes), carried rigidly by joint `frame`."""

    joint: int
    frame: int
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfacePoint:
    """A fixed mixture of neighbouring mesh vertices: a vertex, or a point inside a face."""

    vertex_ids: tuple[int, ...]
    vertex_weights: tuple[float, ...]


BodyPoint = Attachment | SurfacePoint


@dataclass(frozen=True, slots=True, kw_only=True)
class PosedPoints:
    """Points and joints of every frame, and what their derivatives need."""

    world: Float64[np.ndarray, "N J 3 3"]  # world rotation of each joint
    joints: Float64[np.ndarray, "N J 3"]
    points: Float64[np.ndarray, "N K 3"]
    rigid: Float64[np.ndarray, "N J 3 K"]  # every point as if carried by each joint alone


@dataclass(frozen=True, slots=True, kw_only=True)
class KeypointBody:
    """A kinematic tree of `J` joints with `K` points and `B` shape parameters (`parents[0] == -1`)."""

    parents: tuple[int, ...]
    joints0: Float64[np.ndarray, "J 3"]
    joints_shape: Float64[np.ndarray, "J 3 B"]
    points0: Float64[np.ndarray, "K 3"]
    points_shape: Float64[np.ndarray, "K 3 B"]
    point_weights: Float64[np.ndarray, "K J"]

    @property
    def num_joints(self) -> int:
        return len(self.parents)

    @property
    def num_points(self) -> int:
        return len(self.points0)

    @property
    def num_betas(self) -> int:
        return self.joints_shape.shape[2]

    def select(self, points: Int64[np.ndarray, " M"]) -> KeypointBody:
        """The same tree with only the points `points`."""
        return replace(
            self,
            points0=self.points0[points],
            points_shape=self.points_shape[points],
            point_weights=self.point_weights[points],
        )

    def with_shape(self, betas: Float64[np.ndarray, " B"]) -> KeypointBody:
        """The body of one shape: `betas` folded into the rest positions, no shape parameters left."""
        return replace(
            self,
            joints0=self.joints0 + self.joints_shape @ betas,
            joints_shape=np.zeros((self.num_joints, 3, 0)),
            points0=self.points0 + self.points_shape @ betas,
            points_shape=np.zeros((self.num_points, 3, 0)),
        )

    def forward(
        self,
        rotations: Float64[np.ndarray, "N J 3 3"],
        transl: Float64[np.ndarray, "N 3"],
        betas: Float64[np.ndarray, " B"],
    ) -> PosedPoints:
        """Poses the points with local joint rotations; SMPL-X semantics (the root lands at `J0 + transl`)."""
        joints0 = self.joints0 + self.joints_shape @ betas
        world = np.empty_like(rotations)
        joints = np.empty((len(rotations), self.num_joints, 3))
        world[:, 0], joints[:, 0] = rotations[:, 0], joints0[0] + transl
        for j in range(1, self.num_joints):
            parent = self.parents[j]
            world[:, j] = world[:, parent] @ rotations[:, j]
            joints[:, j] = joints[:, parent] + world[:, parent] @ (joints0[j] - joints0[parent])
        rest = self.points0 + self.points_shape @ betas
        relative = rest.T[None] - joints0[:, :, None]  # [J, 3, K]
        rigid = world @ relative + joints[..., None]
        points = np.einsum("njak,kj->nka", rigid, self.point_weights, optimize=False)
        return PosedPoints(world=world, joints=joints, points=points, rigid=rigid)

    def jacobian(self, posed: PosedPoints) -> Float64[np.ndarray, "N K 3 D"]:
        """d points / d (rotation increments 3J, transl 3, betas B), increments on the right of the local rotations.

        A joint's increment turns everything below it about the joint: the derivative is the cross product of the
        joint's world axes with the lever arms of the point's share in that subtree.
        """
        n, j, k, b = len(posed.points), self.num_joints, self.num_points, self.num_betas
        below = self._subtree_mask()
        weighted = (posed.rigid * self.point_weights.T[None, :, None, :]).reshape(n, j, 3 * k)
        lever = (below @ weighted).reshape(n, j, 3, k)
        lever -= (below @ self.point_weights.T)[None, :, None, :] * posed.joints[..., None]
        arm = lever.transpose(0, 3, 2, 1)  # [N, K, 3, J]
        axes = posed.world.transpose(0, 2, 1, 3)[:, None]  # [N, 1, 3, J, 3]
        result = np.empty((n, k, 3, 3 * j + 3 + b))
        turn = result[..., : 3 * j].reshape(n, k, 3, j, 3)
        for a in range(3):
            c, d = (a + 1) % 3, (a + 2) % 3
            turn[:, :, a] = axes[:, :, c] * arm[:, :, d, :, None] - axes[:, :, d] * arm[:, :, c, :, None]
        result[..., : 3 * j] = turn.reshape(n, k, 3, 3 * j)
        result[..., 3 * j : 3 * j + 3] = np.eye(3)
        result[..., 3 * j + 3 :] = self._shape_jacobian(posed)
        return result

    def _shape_jacobian(self, posed: PosedPoints) -> Float64[np.ndarray, "N K 3 B"]:
        n, j, k, b = len(posed.points), self.num_joints, self.num_points, self.num_betas
        moved = np.empty((n, j, 3, b))
        moved[:, 0] = self.joints_shape[0]
        for joint in range(1, j):
            parent = self.parents[joint]
            step = self.joints_shape[joint] - self.joints_shape[parent]
            moved[:, joint] = moved[:, parent] + posed.world[:, parent] @ step
        relative = self.points_shape[None] - self.joints_shape[:, None]  # [J, K, 3, B]
        relative = (relative * self.point_weights.T[:, :, None, None]).transpose(0, 2, 1, 3).reshape(3 * j, k * b)
        local = posed.world.transpose(0, 2, 1, 3).reshape(n * 3, 3 * j) @ relative
        result = local.reshape(n, 3, k, b).transpose(0, 2, 1, 3)
        carried = self.point_weights @ moved.reshape(n, j, 3 * b)
        return result + carried.reshape(n, k, 3, b)

    def _subtree_mask(self) -> Float64[np.ndarray, "J J"]:
        """Entry (a, b) is 1 where joint b is a or hangs below it."""
        mask = np.eye(self.num_joints)
        for joint in range(self.num_joints - 1, 0, -1):
            mask[self.parents[joint]] += mask[joint]
        return mask


def build_keypoint_body(
    model: BodyModel, points: Sequence[BodyPoint], *, joints: Sequence[int] = range(NUM_BODY_JOINTS)
) -> KeypointBody:
    """The tree of `joints` (SMPL-X indices, root first, ancestors before descendants) with the given points.

    Weights of joints outside the tree go to their nearest ancestor inside it, or to the root where there is none.
    """
    owner = _owners(joints)
    joints0 = model.joints_template.double().numpy()
    joints_shape = model.joints_shapedirs.double().numpy()
    rest, shape, weights = [], [], np.zeros((len(points), len(joints)))
    for k, point in enumerate(points):
        if isinstance(point, Attachment):
            rest.append(joints0[point.joint] + np.asarray(point.offset_m))
            shape.append(joints_shape[point.joint])
            weights[k, owner[point.frame]] = 1.0
        else:
            ids, mix = np.asarray(point.vertex_ids), np.asarray(point.vertex_weights, np.float64)
            rest.append(mix @ model.v_template[ids].double().numpy())
            shape.append(np.einsum("v,vcb->cb", mix, model.shapedirs[ids].double().numpy()))
            np.add.at(weights[k], owner, mix @ model.weights[ids].double().numpy())
    position = {joint: i for i, joint in enumerate(joints)}
    chosen = list(joints)
    return KeypointBody(
        parents=(-1, *(position[PARENTS[joint]] for joint in chosen[1:])),
        joints0=joints0[chosen],
        joints_shape=joints_shape[chosen],
        points0=np.array(rest).reshape(-1, 3),
        points_shape=np.array(shape).reshape(len(points), 3, model.num_betas),
        point_weights=weights / weights.sum(1, keepdims=True),
    )


def _owners(joints: Sequence[int]) -> Int64[np.ndarray, " 55"]:
    position = {joint: i for i, joint in enumerate(joints)}
    owner = np.zeros(NUM_JOINTS, np.int64)
    for joint in range(NUM_JOINTS):
        ancestor = joint
        while ancestor not in position and ancestor > 0:
            ancestor = PARENTS[ancestor]
        owner[joint] = position.get(ancestor, 0)
    return owner
