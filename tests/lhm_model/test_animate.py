"""An avatar: posed export with a rig that reproduces skinning, the camera that holds a motion, and the video file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lhmforge.datasets.body.builtin_motion import turntable, walk_and_wave
from lhmforge.datasets.body.lbs import axis_angle_to_matrix, joint_chain, skinning_transforms
from lhmforge.datasets.body.model import BodyModel, full_pose
from lhmforge.datasets.body.params import BodyParams
from lhmforge.lhm_model.animate import camera_for, render_motion
from lhmforge.lhm_model.avatar import Avatar, write_avatar
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.gaussians import CanonicalGaussians
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.ply import GaussianCloud, read_ply
from lhmforge.lhm_model.video_file import write_video


@pytest.fixture(scope="module")
def avatar(toy_body: BodyModel, toy_config: ModelConfig) -> Avatar:
    config = replace(toy_config, num_points=600)
    model = LHM(config, toy_body).eval()
    count = config.num_points
    generator = torch.Generator().manual_seed(0)
    canonical = CanonicalGaussians(
        offsets=0.01 * torch.randn(1, count, 3, generator=generator),
        scales=torch.full((1, count, 3), 0.03),
        rotations=torch.tensor([1.0, 0, 0, 0]).repeat(1, count, 1),
        opacities=torch.full((1, count), 0.9),
        colours=torch.rand(1, count, 3, generator=generator),
    )
    return Avatar(model=model, canonical=canonical, betas=np.linspace(-1, 1, 10).astype(np.float32))


def test_the_rig_poses_the_ply_like_the_model_does(avatar: Avatar, tmp_path: Path) -> None:
    cloud_path, rig_path = write_avatar(tmp_path, avatar)
    cloud = read_ply(cloud_path)
    rig = dict(np.load(rig_path))
    rng = np.random.default_rng(1)
    body = replace(
        BodyParams.rest(1),
        body_pose=rng.normal(0, 0.3, (1, 21, 3)).astype(np.float32),
        global_orient=rng.normal(0, 0.3, (1, 3)).astype(np.float32),
        transl=np.array([[0.1, -0.2, 0.3]], np.float32),
    )
    joints = torch.from_numpy(rig["joints_rest_m"])[None]
    rotations = axis_angle_to_matrix(torch.from_numpy(full_pose(body)))
    posed = joint_chain(rotations, joints, tuple(rig["parents"].tolist()))
    transforms = skinning_transforms(posed, joints)[0].numpy()
    blended = np.einsum("nj,jab->nab", rig["weights"], transforms)
    by_rig = np.einsum("nab,nb->na", blended[:, :3, :3], cloud.means) + blended[:, :3, 3] + body.transl[0]
    by_model = GaussianCloud.of(avatar.pose(body)).means
    np.testing.assert_allclose(by_rig, by_model, atol=2e-4)
    description = json.loads((tmp_path / "rig.json").read_text())
    assert len(description["joint_names"]) == rig["weights"].shape[1] == 55
    assert rig["weights"].shape[0] == len(cloud.means)


def test_pose_takes_the_persons_shape_and_any_number_of_expressions(avatar: Avatar) -> None:
    body = BodyParams.rest(2, num_expression=50)
    wide = replace(avatar, betas=np.pad(avatar.betas, (0, 6)))
    torch.testing.assert_close(wide.pose(body).means, avatar.pose(BodyParams.rest(2)).means)
    thin = replace(avatar, betas=np.zeros(10, np.float32))
    assert (thin.pose(body).means - avatar.pose(body).means).abs().max() > 1e-3


def test_the_camera_holds_the_whole_motion(avatar: Avatar) -> None:
    motion = walk_and_wave(seconds=2.0, fps=8.0)
    far = replace(motion, body=replace(motion.body, transl=motion.body.transl + np.array([3, 1, -4], np.float32)))
    for shown in (motion, far):
        camera = camera_for(avatar, shown, width=60, height=80)
        frames = np.stack(list(render_motion(avatar, shown, camera)))
        assert frames.shape == (16, 80, 60, 3) and frames.dtype == np.uint8
        drawn = (frames < 250).any(-1)
        assert drawn.any(0)[:, [0, -1]].sum() == 0 and drawn.any(0)[[0, -1]].sum() == 0
        rows, columns = np.flatnonzero(drawn.any((0, 2))), np.flatnonzero(drawn.any((0, 1)))
        assert np.ptp(rows) > 0.6 * 80 or np.ptp(columns) > 0.6 * 60
        assert drawn[:, :40].sum() > 0 and (frames[:-1] != frames[1:]).any((1, 2, 3)).all()


def test_a_turntable_shows_every_side_and_closes(avatar: Avatar) -> None:
    motion = turntable(seconds=2.0, fps=6.0)
    camera = camera_for(avatar, motion, width=60, height=80)
    frames = np.stack(list(render_motion(avatar, motion, camera))).astype(float)
    steps = np.abs(np.diff(frames, axis=0, append=frames[:1])).mean((1, 2, 3))
    assert steps.max() < 3 * steps.min()
    widths = (frames < 250).any((1, 3)).sum(1)
    assert widths[3] < 0.8 * widths[0]  # from the side


def test_builtin_motions_stand_upright_and_loop() -> None:
    for motion in (walk_and_wave(), turntable()):
        heads = np.array([0.0, 1.0, 0.0])
        from scipy.spatial.transform import Rotation

        up = Rotation.from_rotvec(motion.body.global_orient).apply(heads)
        assert (up[:, 1] < -0.95).all()  # y points down
        pose = motion.body.body_pose
        steps = np.abs(np.diff(pose, axis=0, append=pose[:1])).max((1, 2))
        assert steps.max() < 0.45


def test_video_round_trip(tmp_path: Path) -> None:
    import av

    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (10, 3))
    frames = [np.broadcast_to(colour.astype(np.uint8), (33, 47, 3)).copy() for colour in colours]
    assert write_video(tmp_path / "a.mp4", iter(frames), fps=24.0) == 10
    with av.open(tmp_path / "a.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.codec_context.name) == (48, 34, "h264")
        assert float(stream.average_rate) == 24.0
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == 10
    for image, colour in zip(decoded, colours, strict=True):
        assert np.abs(image[:33, :47].mean((0, 1)) - colour).max() < 12
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
