"""Motion files: SMPL-X and AMASS forms, curated samples, resampling, and every way in which a file can be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lhmforge.datasets.body.motion_file import Motion, load_motion, resample, with_expression_size
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.errors import BodyError, ShardError


def some_body(frames: int = 6) -> BodyParams:
    rng = np.random.default_rng(0)
    rest = BodyParams.rest(frames)
    return replace(
        rest,
        body_pose=rng.normal(0, 0.2, rest.body_pose.shape).astype(np.float32),
        global_orient=rng.normal(0, 0.2, (frames, 3)).astype(np.float32),
        transl=np.cumsum(rng.normal(0, 0.05, (frames, 3)), 0).astype(np.float32),
        expression=rng.normal(0, 1, (frames, 10)).astype(np.float32),
    )


def test_smplx_form_round_trip(tmp_path: Path) -> None:
    body = some_body()
    np.savez(tmp_path / "m.npz", **body.to_arrays(), fps=np.array(12.0))
    motion = load_motion(str(tmp_path / "m.npz"))
    assert motion.fps == 12.0 and motion.name == "m"
    np.testing.assert_array_equal(motion.body.body_pose, body.body_pose)
    np.testing.assert_array_equal(motion.body.expression, body.expression)
    np.testing.assert_allclose(motion.body.transl, body.transl - body.transl[0])


@pytest.mark.parametrize("width", [165, 156, 72, 66])
def test_amass_is_turned_from_z_up_to_y_down(tmp_path: Path, width: int) -> None:
    poses = np.random.default_rng(1).normal(0, 0.1, (5, width))
    poses[:, :3] = Rotation.from_euler("x", 90, degrees=True).as_rotvec()  # stands: body y along world z
    trans = np.zeros((5, 3))
    trans[:, 2] = np.linspace(1.0, 1.4, 5)  # rises
    np.savez(tmp_path / "m.npz", poses=poses, trans=trans, mocap_framerate=np.array([60.0]), gender=np.array("female"))
    motion = load_motion(str(tmp_path / "m.npz"))
    up = Rotation.from_rotvec(motion.body.global_orient).apply([0, 1, 0])
    np.testing.assert_allclose(up, np.tile([0, -1, 0], (5, 1)), atol=1e-6)
    np.testing.assert_allclose(motion.body.transl[-1], [0, -0.4, 0], atol=1e-6)
    assert motion.fps == 60.0
    np.testing.assert_allclose(motion.body.body_pose.reshape(5, -1), poses[:, 3:66], atol=1e-6)
    if width >= 156:
        np.testing.assert_allclose(motion.body.right_hand_pose.reshape(5, -1), poses[:, -45:], atol=1e-6)
    if width == 165:
        np.testing.assert_allclose(motion.body.jaw_pose, poses[:, 66:69], atol=1e-6)


def wrong(name: str, value: np.ndarray | None) -> dict[str, np.ndarray]:
    arrays = some_body().to_arrays()
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    return arrays


NAN = np.full((6, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (wrong("jaw_pose", None), "missing arrays .*jaw_pose"),
        (wrong("transl", NAN), "transl holds a value that is not finite"),
        (wrong("body_pose", np.zeros((6, 23, 3))), "body_pose has shape"),
        (wrong("global_orient", np.zeros((4, 3))), "global_orient has 4 frames"),
        ({name: value[:0] if name != "betas" else value for name, value in some_body().to_arrays().items()}, "no frames"),
        ({"poses": np.zeros((4, 63)), "trans": np.zeros((4, 3))}, "63 values a frame .21 joints"),
        ({"poses": np.zeros((4, 156)), "trans": np.zeros((3, 3))}, "trans"),
        ({"poses": np.full((4, 156), np.nan), "trans": np.zeros((4, 3))}, "not finite"),
        ({"poses": np.zeros((4, 156)), "trans": np.zeros((4, 3)), "fps": np.array(0.0)}, "frame rate"),
        ({"poses": np.zeros((4, 156)), "trans": np.zeros((4, 3)), "fps": np.zeros(4)}, "expected one number"),
        ({"poses": np.zeros((4, 156)), "trans": np.zeros((4, 3)), "fps": np.array(np.nan)}, "frame rate"),
        ({"poses": np.full((4, 165), 90.0), "trans": np.zeros((4, 3))}, "are its angles in degrees"),
        ({"poses": np.zeros((0, 165)), "trans": np.zeros((0, 3))}, "no frames"),
        ({"something": np.zeros(3)}, "expected those of BodyParams"),
    ],
)  # fmt: skip
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(BodyError, match=words) as caught:
        load_motion(str(tmp_path / "m.npz"))
    assert "m.npz" in str(caught.value)


def test_no_file_no_npz_no_key(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    for name, error in (("absent.npz", "no such file"), ("text.npz", "readable npz")):
        with pytest.raises(BodyError, match=error):
            load_motion(str(tmp_path / name))
    with pytest.raises(BodyError, match="KEY"):
        load_motion(str(tmp_path / "manifest.parquet"))
    with pytest.raises(ShardError):
        load_motion(str(tmp_path / "manifest.parquet") + "#a")


def test_resampling_keeps_the_motion() -> None:
    angles = np.linspace(0, 3.0, 31)  # half a turn in three seconds
    body = replace(
        BodyParams.rest(31),
        global_orient=np.outer(angles, [0, 1, 0]).astype(np.float32),
        transl=np.outer(angles, [0, 0, 1]).astype(np.float32),
    )
    faster = resample(Motion(name="turn", body=body, fps=10.0), 24.0)
    assert faster.fps == 24.0 and faster.body.num_frames == 73
    times = np.arange(73) / 24.0
    np.testing.assert_allclose(faster.body.global_orient[:, 1], times, atol=1e-5)
    np.testing.assert_allclose(faster.body.transl[:, 2], times, atol=1e-5)
    still = resample(Motion(name="still", body=BodyParams.rest(1), fps=30.0), 24.0)
    assert still.body.num_frames == 1


def test_expression_coefficients_are_cut_or_padded() -> None:
    body = some_body()
    np.testing.assert_array_equal(with_expression_size(body, 4).expression, body.expression[:, :4])
    padded = with_expression_size(body, 50).expression
    assert padded.shape == (6, 50) and (padded[:, 10:] == 0).all()
