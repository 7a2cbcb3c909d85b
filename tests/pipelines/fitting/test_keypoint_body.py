"""The sparse body against the full body model, and its Jacobian against finite differences."""

from __future__ import annotations

import numpy as np
import torch

from lhmforge.datasets.body.joints import NUM_JOINTS
from lhmforge.datasets.body.model import BodyModel
from lhmforge.pipelines.fitting.keypoint_body import Attachment, SurfacePoint, build_keypoint_body
from lhmforge.pipelines.fitting.landmarks import POINT_NAMES, solver_body
from lhmforge.pipelines.fitting.rotations import exp_rotation, log_rotation


def _random_state(num_frames: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rotations = exp_rotation(0.4 * rng.normal(size=(num_frames, 22, 3)))
    return rotations, rng.normal(size=(num_frames, 3)), 0.5 * rng.normal(size=10)


def test_joints_and_surface_points_agree_with_the_body_model(toy_model: BodyModel) -> None:
    rotations, transl, betas = _random_state(3, 0)
    points = [SurfacePoint(vertex_ids=(100,), vertex_weights=(1.0,)), Attachment(joint=20, frame=20)]
    posed = build_keypoint_body(toy_model, points).forward(rotations, transl, betas)
    pose = np.zeros((3, NUM_JOINTS, 3))
    pose[:, :22] = log_rotation(rotations)
    as_tensor = lambda a: torch.from_numpy(a).float()  # noqa: E731
    output = toy_model.forward(
        betas=as_tensor(betas)[None].expand(3, -1),
        full_pose=as_tensor(pose),
        transl=as_tensor(transl),
        pose_correctives=False,
    )
    np.testing.assert_allclose(posed.joints, output.joints[:, :22].numpy(), atol=1e-5)
    np.testing.assert_allclose(posed.points[:, 0], output.vertices[:, 100].numpy(), atol=1e-5)
    np.testing.assert_allclose(posed.points[:, 1], output.joints[:, 20].numpy(), atol=1e-5)


def test_jacobian_matches_finite_differences(toy_model: BodyModel) -> None:
    body = solver_body(toy_model, "none")
    rotations, transl, betas = _random_state(2, 1)
    jacobian = body.jacobian(body.forward(rotations, transl, betas))
    step = 1e-6
    for dof in range(jacobian.shape[-1]):
        change = np.zeros(69 + 10)
        change[dof] = step
        moved = []
        for sign in (1, -1):
            turned = rotations @ exp_rotation(sign * change[:66].reshape(22, 3))
            moved.append(body.forward(turned, transl + sign * change[66:69], betas + sign * change[69:]).points)
        np.testing.assert_allclose(jacobian[..., dof], (moved[0] - moved[1]) / (2 * step), atol=1e-7)


def test_folded_shape_poses_alike(toy_model: BodyModel) -> None:
    body = solver_body(toy_model, "none")
    rotations, transl, betas = _random_state(2, 2)
    folded = body.with_shape(betas).forward(rotations, transl, np.zeros(0))
    np.testing.assert_allclose(folded.points, body.forward(rotations, transl, betas).points, atol=1e-12)


def test_every_solver_point_has_a_mirror_image(free_model: BodyModel) -> None:
    for source in ("none", "mediapipe_33"):
        body = solver_body(free_model, source)
        for k, name in enumerate(POINT_NAMES):
            if name.startswith("left_"):
                other = body.points0[POINT_NAMES.index(name.replace("left_", "right_"))]
                np.testing.assert_allclose(body.points0[k] * [-1, 1, 1], other, atol=0.012)
