"""The rasteriser, dressed people and clips: exact geometry, determinism, truth that agrees with the pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.synthetic.clip import ClipConfig, SyntheticClip, render_clip
from lhmforge.datasets.synthetic.fabric import fabric, tiling_noise
from lhmforge.datasets.synthetic.motion import MOTIONS, make_motion
from lhmforge.datasets.synthetic.multiview import MultiviewConfig, multiview_sample
from lhmforge.datasets.synthetic.person import make_person
from lhmforge.datasets.synthetic.raster import Light, Surface, rasterise
from lhmforge.datasets.synthetic.scene import grounded, in_camera, looking_at
from lhmforge.datasets.synthetic.shading import shade
from lhmforge.datasets.synthetic.truth import ClipTruth

SMALL = ClipConfig(seed=3, index=0, num_frames=3, width=96, height=128)
INTRINSICS = np.array([[100, 0, 32], [0, 100, 32], [0, 0, 1]], np.float32)


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return BodyModel.load(free_body_path())


@pytest.fixture(scope="module")
def clip(body: BodyModel) -> SyntheticClip:
    return render_clip(SMALL, body)


def square(depth: float, half: float = 0.2) -> np.ndarray:
    return np.array(
        [[-half, -half, depth], [half, -half, depth], [half, half, depth], [-half, half, depth]], np.float32
    )


SQUARE_FACES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def test_a_square_covers_the_pixels_that_its_projection_covers() -> None:
    coverage = rasterise(square(2.0), SQUARE_FACES, INTRINSICS, width=64, height=64)
    y, x = np.nonzero(coverage.face_id >= 0)
    assert (x.min(), x.max(), y.min(), y.max()) == (22, 41, 22, 41)  # 32 +- 10, pixel centres at +0.5
    np.testing.assert_allclose(coverage.inverse_depth[32, 32], 0.5, rtol=1e-6)
    assert coverage.face_id[0, 0] == -1 and coverage.inverse_depth[0, 0] == 0


def test_the_nearer_surface_wins_and_what_is_behind_the_camera_is_left_out() -> None:
    vertices = np.concatenate([square(2.0), square(1.0, 0.05), square(-1.0)])
    faces = np.concatenate([SQUARE_FACES, SQUARE_FACES + 4, SQUARE_FACES + 8]).astype(np.int32)
    coverage = rasterise(vertices, faces, INTRINSICS, width=64, height=64)
    assert set(np.unique(coverage.face_id)) == {-1, 0, 1, 2, 3}
    assert coverage.face_id[32, 34] in (2, 3) and coverage.face_id[24, 24] in (0, 1)


def test_barycentrics_are_perspective_correct() -> None:
    vertices = np.array([[-0.3, -0.3, 1.0], [0.9, -0.3, 3.0], [-0.3, 0.3, 1.0]], np.float32)
    coverage = rasterise(vertices, np.array([[0, 1, 2]], np.int32), INTRINSICS, width=64, height=64)
    for y, x in np.argwhere(coverage.face_id == 0)[::17]:
        u, v = coverage.bary[y, x]
        point = u * vertices[0] + v * vertices[1] + (1 - u - v) * vertices[2]
        np.testing.assert_allclose(point[2] * coverage.inverse_depth[y, x], 1, rtol=1e-4)
        np.testing.assert_allclose(100 * point[:2] / point[2] + 32, [x + 0.5, y + 0.5], atol=1e-2)


def test_light_falls_from_where_it_stands() -> None:
    texture = np.full((8, 8, 3), 200, np.uint8)
    surface = Surface(
        faces=SQUARE_FACES,
        face_uv=np.zeros((2, 3, 2), np.float32),
        face_texture=np.zeros(2, np.int32),
        textures=(texture,),
    )
    dark, bright = (
        shade(
            rasterise(square(2.0), SQUARE_FACES, INTRINSICS, width=64, height=64),
            square(2.0),
            surface,
            Light(
                towards=np.array([0, 0, sign], np.float32),
                up=np.array([0, -1, 0], np.float32),
                ambient=np.full(3, 0.3, np.float32),
                diffuse=np.full(3, 0.7, np.float32),
            ),
        )[32, 32, 0]
        for sign in (1.0, -1.0)
    )
    assert bright > dark > 0.1
    np.testing.assert_allclose(bright**2.2 - dark**2.2, (200 / 255) ** 2.2 * (1 - 0.3**2.2), atol=1e-3)


def test_textures_tile_and_follow_the_seed() -> None:
    noise = tiling_noise(np.random.default_rng(0), 8)
    step = np.abs(np.diff(noise, axis=0)).max()
    assert np.abs(noise[0] - noise[-1]).max() < 2 * step
    first, again, other = (fabric(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("name", list(MOTIONS))
def test_motions_are_smooth_and_stand_on_the_ground(name: str, body: BodyModel) -> None:
    motion = make_motion(name, 24, 24.0, np.random.default_rng(5))
    assert np.abs(np.diff(motion.full_pose, axis=0)).max() < 0.5 and np.abs(np.diff(motion.path, axis=0)).max() < 0.05
    posed = body.pose(grounded(body, np.zeros(10, np.float32), motion, np.zeros(3)))
    lowest = posed.vertices[..., 1].amin(1).numpy()
    np.testing.assert_allclose(lowest, 0, atol=1e-4)
    assert (posed.joints[:, 15, 1] > 0.8).all()  # nobody lies down


def test_moving_parameters_to_the_camera_moves_the_body(body: BodyModel) -> None:
    motion = make_motion("dance", 2, 10.0, np.random.default_rng(1))
    betas = np.random.default_rng(2).normal(size=10).astype(np.float32)
    world = grounded(body, betas, motion, np.array([0.3, 0, -0.2]))
    camera = looking_at(np.array([1.0, 1.5, 3.0]), np.array([0.0, 0.9, 0.0]), INTRINSICS)
    expected = body.pose(world).vertices.numpy() @ camera.rotation.T + camera.translation
    found = body.pose(in_camera(body, world, camera)).vertices.numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_clothes_lie_outside_the_body_and_keep_its_pose(body: BodyModel) -> None:
    person = make_person(body, np.random.default_rng(4))
    params = BodyParams.from_arrays(BodyParams.rest(1).to_arrays() | {"betas": person.betas})
    vertices = person.pose(params)[0]
    own = body.pose(params).vertices[0].numpy()
    np.testing.assert_allclose(vertices[: body.num_vertices], own, atol=1e-5)
    assert len(vertices) > body.num_vertices + 500
    assert len(person.surface.textures) >= 4
    low, high = vertices.min(0) - own.min(0), vertices.max(0) - own.max(0)
    assert (np.abs(low) < 0.06).all() and (np.abs(high) < 0.06).all()


def test_a_clip_is_the_same_every_time_and_differs_between_indices(body: BodyModel, clip: SyntheticClip) -> None:
    again = render_clip(SMALL, body)
    assert (clip.frames == again.frames).all()
    assert clip.truth.to_bytes() == again.truth.to_bytes()
    other = render_clip(replace(SMALL, index=1), body)
    assert (other.frames != clip.frames).any()
    assert (other.truth.persons[0].body.betas != clip.truth.persons[0].body.betas).any()


def test_mattes_agree_with_the_true_body(body: BodyModel, clip: SyntheticClip) -> None:
    person = clip.truth.persons[0]
    for n in range(3):
        vertices = body.pose(person.body.select(np.array([n]))).vertices[0].numpy()
        faces = body.faces.numpy().astype(np.int32)
        inside = rasterise(vertices, faces, clip.truth.intrinsics, width=96, height=128).face_id >= 0
        matte = person.alpha(n) > 127
        assert (inside & matte).sum() / inside.sum() > 0.95  # all of the body but a little antialiased edge
        assert (inside & matte).sum() / (inside | matte).sum() > 0.6  # skirt, sleeves and hair make up the rest
        assert 0.6 < np.ptp(np.nonzero(matte)[0]) / 128 < 0.9


def test_keypoints_lie_on_the_person(clip: SyntheticClip) -> None:
    person = clip.truth.persons[0]
    assert person.visible[:, :17].mean() > 0.4
    for n in range(3):
        x, y = np.floor(person.points_px[n][person.visible[n]]).astype(int).T
        assert (person.alpha(n)[y, x] > 76).all()


def test_two_persons_have_mattes_of_their_own(body: BodyModel) -> None:
    truth = render_clip(replace(SMALL, num_persons=2, num_frames=1, width=128), body).truth
    first, second = (person.alpha(0).astype(int) for person in truth.persons)
    assert first.max() > 200 and second.max() > 200
    assert (first + second).max() <= 256


def test_truth_survives_the_disk(clip: SyntheticClip) -> None:
    data = clip.truth.to_bytes()
    read = ClipTruth.from_bytes(data, what="truth")
    assert read.to_bytes() == data
    assert read.body_digest == clip.truth.body_digest and read.num_frames == 3


def test_multiview_sample_sees_one_pose_from_all_around(body: BodyModel) -> None:
    from lhmforge.datasets.sample import parse_sample
    from lhmforge.datasets.shards import ShardSample

    config = MultiviewConfig(seed=1, num_views=4, width=64, height=96)
    packed = multiview_sample(config, 0, body)
    sample = parse_sample(ShardSample(key=packed.key, members=dict(packed.members)))
    assert (sample.body.global_orient == sample.body.global_orient[0]).all()
    for n in range(4):
        vertices = body.pose(sample.body.select(np.array([n]))).vertices[0].numpy()
        camera = sample.world_to_camera[n]
        seen = (vertices @ camera[:3, :3].T + camera[:3, 3]).astype(np.float32)
        inside = rasterise(seen, body.faces.numpy().astype(np.int32), sample.intrinsics[n], width=64, height=96)
        matte = sample.alpha(n) > 127
        overlap = (inside.face_id >= 0) & matte
        assert overlap.sum() / ((inside.face_id >= 0) | matte).sum() > 0.7
    yaw = np.unwrap(np.arctan2(sample.world_to_camera[:, 2, 0], sample.world_to_camera[:, 2, 2]))
    np.testing.assert_allclose(np.abs(np.diff(yaw)), np.pi / 2, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "at least one frame"),
        ({"width": 97}, "both sides must be even"),
        ({"motion": "fly"}, "'fly' is unknown; choose one of walk"),
        ({"num_persons": 9}, "one to four persons"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)
