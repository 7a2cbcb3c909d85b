"""Windows hold the person, cameras follow the pixels, and frames are chosen by the published rules."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lhmforge.datasets.cameras import project
from lhmforge.datasets.codecs import decode_json
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.records import PackedSample
from lhmforge.datasets.sample import StoredSample, parse_sample
from lhmforge.datasets.sampling import (
    FACE,
    SamplingConfig,
    choose_frames,
    chunk_centres,
    evaluation_example,
    frontal_angle_rad,
    head_square,
    most_frontal_frame,
    person_window,
    training_example,
)
from lhmforge.datasets.shards import ShardSample

CONFIG = SamplingConfig(num_target_views=4, source_size=(48, 80), target_size=(36, 60), head_size=16)


def stored(packed: PackedSample) -> StoredSample:
    return parse_sample(ShardSample(key=packed.key, members=dict(packed.members)))


@pytest.fixture
def sample(make_sample: Callable[..., PackedSample]) -> StoredSample:
    return stored(make_sample("s", num_frames=6))


def test_sample_round_trip(make_sample: Callable[..., PackedSample]) -> None:
    packed = make_sample("s", num_frames=6, identity="anna")
    sample = stored(packed)
    assert sample.num_frames == 6 and sample.image(5).shape == (100, 58, 3) and sample.alpha(5).shape == (100, 58)
    assert sample.meta["lineage"]["identity"] == "anna" and sample.meta["sizes_px"][5] == [58, 100]
    assert "/videos/" not in dict(packed.members)["sample.json"].decode(), "absolute places stay out of shards"
    assert np.array_equal(sample.body.transl[:, 0], np.arange(6))


def test_a_sample_that_lacks_or_garbles_a_member_is_named(make_sample: Callable[..., PackedSample]) -> None:
    members = dict(make_sample("s").members)
    for name in ("sample.json", "body.npz", "camera.npz", "keypoints.npz"):
        with pytest.raises(ShardError, match=name):
            parse_sample(ShardSample(key="s", members={key: data for key, data in members.items() if key != name}))
    meta = decode_json(members["sample.json"])
    assert isinstance(meta, dict)
    older = members["sample.json"].replace(b'"version":1', b'"version":99')
    with pytest.raises(ShardError, match="version 99"):
        parse_sample(ShardSample(key="s", members={**members, "sample.json": older}))
    with pytest.raises(ShardError, match=r"camera\.npz: intrinsics"):
        parse_sample(ShardSample(key="s", members={**members, "camera.npz": members["keypoints.npz"]}))
    without = {key: data for key, data in members.items() if key != "frame_0002.jpg"}
    with pytest.raises(ShardError, match="frame_0002"):
        parse_sample(ShardSample(key="s", members=without)).image(2)


@given(num_frames=st.integers(1, 200), num_views=st.integers(1, 8), seed=st.integers(0, 1000))
def test_chunked_frames_cover_time_and_uniform_ones_do_not_repeat(num_frames: int, num_views: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chunked = choose_frames(num_frames, num_views, 1.0, rng)
    assert len(chunked) == num_views and chunked.min() >= 0 and chunked.max() < num_frames
    if num_frames % num_views == 0:
        assert sorted(chunked * num_views // num_frames) == list(range(num_views))
    uniform = choose_frames(num_frames, num_views, 0.0, rng)
    assert len(set(uniform)) == num_views or num_frames < num_views
    centres = chunk_centres(num_frames, num_views)
    assert (np.diff(centres) >= 0).all() and centres[0] >= 0 and centres[-1] < num_frames


def test_the_source_is_any_of_the_targets() -> None:
    rng = np.random.default_rng(0)
    firsts = [int(choose_frames(8, 4, 1.0, rng)[0]) for _ in range(400)]
    assert np.bincount(firsts, minlength=8).min() >= 25  # 50 expected of each


@given(
    height=st.integers(20, 200), width=st.integers(20, 200), data=st.data(), scale=st.floats(1.0, 1.3),
    size=st.sampled_from([(36, 60), (60, 60), (64, 32)]),
)  # fmt: skip
@settings(deadline=None)
def test_the_window_holds_the_matte_at_the_right_aspect(
    height: int, width: int, data: st.DataObject, scale: float, size: tuple[int, int]
) -> None:
    x0, y0 = data.draw(st.integers(0, width - 8)), data.draw(st.integers(0, height - 8))
    x1, y1 = data.draw(st.integers(x0 + 4, width)), data.draw(st.integers(y0 + 4, height))
    alpha = np.zeros((height, width), np.uint8)
    alpha[y0:y1, x0:x1] = 255
    left, top, right, bottom = person_window(alpha, size=size, scale=scale)
    assert left <= x0 and top <= y0 and right >= x1 and bottom >= y1
    assert abs((right - left) / size[0] * size[1] - (bottom - top)) <= 2.0


def test_an_empty_matte_takes_the_whole_frame() -> None:
    left, top, right, bottom = person_window(np.zeros((80, 40), np.uint8), size=(36, 60), scale=1.0)
    assert left <= 0 and top <= 0 and right >= 40 and bottom >= 80


@pytest.mark.parametrize("seed", range(8))
def test_intrinsics_follow_the_pixels(sample: StoredSample, seed: int) -> None:
    """A camera point projected into any view lands where its stored pixel's colour went: on the block's edges."""
    example = training_example(sample, replace(CONFIG, half_body_probability=1.0), np.random.default_rng(seed))
    views = (example.source, *example.targets)
    for view, index in zip(views, (example.frames[0], *example.frames), strict=True):
        height, width = sample.alpha(int(index)).shape
        inverse = np.linalg.inv(sample.intrinsics[index].astype(np.float64))
        centre = inverse @ [(width // 3 + 2 * width // 3) / 2, (height // 5 + 4 * height // 5) / 2, 1.0]
        top_left = inverse @ [width // 3, height // 5, 1.0]
        x, y = project(centre, view.intrinsics.astype(np.float64))
        left, top = project(top_left, view.intrinsics.astype(np.float64))
        columns = np.flatnonzero((view.alpha > 0.5).any(axis=0))
        rows = np.flatnonzero((view.alpha > 0.5).any(axis=1))
        assert abs((columns[0] + columns[-1] + 1) / 2 - x) <= 1.0
        assert abs(columns[0] - left) <= 1.0 and abs(rows[0] - top) <= 1.0
        if y < view.alpha.shape[0] - 2:
            assert view.alpha[int(y), int(x)] > 0.9


def test_colours_are_composited_without_a_fringe(sample: StoredSample) -> None:
    for grey in (0.0, 0.5, 1.0):
        config = replace(CONFIG, backgrounds=(grey,))
        example = training_example(sample, config, np.random.default_rng(0))
        for view, index in zip(example.targets, example.frames, strict=True):
            assert view.background == grey
            assert np.allclose(view.image[view.alpha == 0], grey)
            edge = view.image[(view.alpha > 0.02) & (view.alpha < 0.98)]
            person = (100 + 8 * index) / 255
            assert np.allclose(view.image[view.alpha == 1], person, atol=0.03)
            assert min(person, grey) - 0.03 <= edge.min() and edge.max() <= max(person, grey) + 0.03


def test_half_body_keeps_the_top_at_the_bottom_edge(sample: StoredSample) -> None:
    half = replace(CONFIG, half_body_probability=1.0, half_body_rows=(0.5, 0.5))
    whole = replace(CONFIG, half_body_probability=0.0)
    cut = training_example(sample, half, np.random.default_rng(3)).source
    full = training_example(sample, whole, np.random.default_rng(3)).source
    assert (
        np.array_equal(cut.image[40:], full.image[:40])
        and (cut.image[:40] == 1.0).all()
        and (cut.alpha[:40] == 0).all()
    )
    assert cut.intrinsics[1, 2] == full.intrinsics[1, 2] + 40


def test_an_example_depends_on_its_generator_alone(sample: StoredSample) -> None:
    one, two = (training_example(sample, CONFIG, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one.frames, two.frames) and np.array_equal(one.source.image, two.source.image)
    other = training_example(sample, CONFIG, np.random.default_rng(6))
    assert not np.array_equal(one.source.image, other.source.image)


def test_evaluation_takes_the_first_frontal_frame(sample: StoredSample) -> None:
    turned = np.array(sample.body.global_orient)
    for index, yaw in enumerate(np.deg2rad([180.0, 90.0, 8.0, 2.0, 0.0, 45.0])):
        flip, spin = np.diag([1.0, -1.0, -1.0]), np.eye(3)
        spin[0, 0] = spin[2, 2] = np.cos(yaw)
        spin[0, 2], spin[2, 0] = np.sin(yaw), -np.sin(yaw)
        turned[index] = _axis_angle(flip @ spin)
    spun = replace(sample, body=replace(sample.body, global_orient=turned.astype(np.float32)))
    assert np.allclose(np.rad2deg(frontal_angle_rad(spun)), [180, 90, 8, 2, 0, 45], atol=0.1)
    assert most_frontal_frame(spun) == 2
    example = evaluation_example(spun, CONFIG)
    assert example.frames.tolist() == [0, 2, 3, 5]
    assert abs(example.source.image[40, 24, 0] * 255 - 116) <= 2  # frame 2's grey level


def _axis_angle(rotation: np.ndarray) -> np.ndarray:
    import cv2

    vector: np.ndarray = cv2.Rodrigues(rotation)[0][:, 0]
    return vector


def test_head_square_from_the_face_or_the_head_points_or_not_at_all() -> None:
    points, scores = np.zeros((133, 2), np.float32), np.zeros(133, np.float32)
    assert head_square(points, scores, 0.3) is None
    points[FACE] = np.random.default_rng(0).uniform([90, 40], [110, 60], (68, 2))
    scores[FACE] = 0.9
    x0, y0, x1, y1 = head_square(points, scores, 0.3)
    assert x0 <= 90 and x1 >= 110 and y0 <= 40 and y1 >= 60 and x1 - x0 == y1 - y0
    scores[FACE] = 0.1
    assert head_square(points, scores, 0.3) is None
    points[:5], scores[:5] = [[100, 50], [104, 46], [96, 46], [109, 48], [91, 48]], 1.0
    x0, y0, x1, y1 = head_square(points, scores, 0.3)
    assert x0 < 91 and x1 > 109 and x1 - x0 == y1 - y0


def test_head_boxes_move_with_the_crop_and_vanish_with_the_face(sample: StoredSample) -> None:
    example = training_example(sample, CONFIG, np.random.default_rng(0))
    assert example.head_valid and example.head_image.min() < 0.9
    for view in example.targets:
        x0, y0, x1, y1 = view.head_box
        assert 0 <= x0 < x1 <= 36 and 0 <= y0 < y1 <= 60
    faceless = replace(sample, point_scores=np.zeros_like(sample.point_scores))
    example = training_example(faceless, CONFIG, np.random.default_rng(0))
    assert not example.head_valid and not example.head_image.any()
    assert all(not view.head_box.any() for view in example.targets)
