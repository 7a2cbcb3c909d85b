"""Pack keeps what the gate kept, moves keypoints and cameras with the crop, and gives equal bytes each time."""

from collections.abc import Iterator
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.cameras import default_intrinsics
from lhmforge.datasets.codecs import encode_png
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.records import (
    AlphaCrop,
    Clip,
    FittedTrack,
    GatedTrack,
    Keypoints,
    KeypointTrack,
    MattedTrack,
    PackedSample,
    Reject,
    SourceVideo,
    Track,
    TrackScores,
    Video,
)
from lhmforge.datasets.sample import StoredSample, parse_sample
from lhmforge.datasets.shards import ShardSample
from lhmforge.pipelines.backends.fake import FakeFace
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.stages.pack import PackStage, matte_window

WIDTH, HEIGHT, NUM_FRAMES = 320, 240, 7


class StillFrames:
    """A context whose frame `i` shows a bright dot at `dot(i)` inside a grey person."""

    def frames(self, video: Video, frame_indices: np.ndarray) -> Iterator[np.ndarray]:
        for index in frame_indices:
            image = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
            x0, y0, x1, y1 = person(int(index))
            image[y0:y1, x0:x1] = 120
            cv2.circle(image, tuple(int(edge) for edge in dot(int(index))), 5, (255, 255, 255), -1)
            yield image

    def local_path(self, uri: str) -> str:
        return uri

    def backend(self, role: str, spec: BackendSpec) -> FakeFace:
        assert role == "face"
        return FakeFace()


def person(index: int) -> tuple[int, int, int, int]:
    left = 60 + 2 * index
    return left, 30, left + 60, 220


def dot(index: int) -> np.ndarray:
    x0, y0, x1, _ = person(index)
    return np.array([(x0 + x1) / 2, y0 + 40.0])


@pytest.fixture
def gated() -> GatedTrack:
    indices = np.arange(NUM_FRAMES, dtype=np.int64) * 3
    boxes = np.array([person(int(index)) for index in indices], np.float32)
    video = Video(
        source=SourceVideo(uri="/v/a.mp4", source_id="a", licence="CC0"), digest="d" * 64, container="mp4", codec="h264",
        width_px=WIDTH, height_px=HEIGHT, rotation_deg=0, num_frames=30, fps=30.0, duration_s=1.0, bit_depth=8,
    )  # fmt: skip
    track = Track(
        clip=Clip(video=video, first_frame=0, end_frame=30),
        person=1,
        frame_indices=indices,
        boxes_px=boxes,
        scores=np.ones(NUM_FRAMES, np.float32),
        other_boxes_px=tuple(np.zeros((0, 4), np.float32) for _ in indices),
    )
    points = np.zeros((NUM_FRAMES, 133, 2), np.float32)
    points[:, 0] = [dot(int(index)) + 0.5 for index in indices]
    keypoints = Keypoints(
        points_px=points,
        scores=np.ones((NUM_FRAMES, 133), np.float32),
        landmark_set="none",
        landmarks_m=np.zeros((NUM_FRAMES, 0, 3), np.float32),
        landmark_scores=np.zeros((NUM_FRAMES, 0), np.float32),
        blendshapes=np.zeros((NUM_FRAMES, 0), np.float32),
        face_px=np.zeros((NUM_FRAMES, 0, 2), np.float32),
    )
    alphas = tuple(matte(person(int(index))) for index in indices)
    body = BodyParams.rest(NUM_FRAMES)
    body.transl[:, 0] = np.arange(NUM_FRAMES)
    fitted = FittedTrack(
        keypointed=KeypointTrack(matted=MattedTrack(track=track, alphas=alphas), keypoints=keypoints),
        body=body,
        body_digest="b" * 64,
        intrinsics=default_intrinsics(WIDTH, HEIGHT),
        reprojection_px=np.arange(NUM_FRAMES, dtype=np.float32),
        pose_uncertainty_rad=np.zeros(NUM_FRAMES, np.float32),
    )
    scores = TrackScores(**{score.name: 1.0 for score in fields(TrackScores)})
    frame_ok = np.array([True, True, False, True, True, True, True])
    return GatedTrack(fitted=fitted, scores=scores, frame_ok=frame_ok)


def matte(box: tuple[int, int, int, int]) -> AlphaCrop:
    """The person inside a window that is 10 px larger on each side."""
    x0, y0, x1, y1 = box
    alpha = np.zeros((y1 - y0 + 20, x1 - x0 + 20), np.uint8)
    alpha[10:-10, 10:-10] = 255
    return AlphaCrop(window_px=(x0 - 10, y0 - 10, x1 + 10, y1 + 10), png=encode_png(alpha))


def pack(stage: PackStage, record: GatedTrack) -> list[PackedSample]:
    results = list(stage(record, StillFrames()))
    assert all(isinstance(result, PackedSample) for result in results)
    return results


def read(packed: PackedSample) -> StoredSample:
    return parse_sample(ShardSample(key=packed.key, members=dict(packed.members)))


def test_only_good_frames_are_kept_with_their_parameters(gated: GatedTrack) -> None:
    (packed,) = pack(PackStage(), gated)
    sample = read(packed)
    assert packed.num_frames == sample.num_frames == 6
    assert sample.meta["frame_indices"] == [0, 3, 9, 12, 15, 18] and sample.meta["fps"] == 30.0
    assert sample.body.transl[:, 0].tolist() == [0, 1, 3, 4, 5, 6]
    assert sample.meta["frame_values"]["reprojection_px"] == [0, 1, 3, 4, 5, 6]
    assert (packed.first_frame, packed.end_frame, packed.person) == (0, 19, 1)
    assert packed.key == f"{gated.key}_00" and sample.meta["lineage"]["licence"] == "CC0"


@pytest.mark.parametrize("max_height_px", [640, 100])
def test_keypoints_and_cameras_follow_the_crop(gated: GatedTrack, max_height_px: int) -> None:
    stage = PackStage(max_height_px=max_height_px, max_width_px=200)
    sample = read(pack(stage, gated)[0])
    camera = gated.fitted.intrinsics.astype(np.float64)
    for place, index in enumerate(sample.meta["frame_indices"]):
        image, alpha = sample.image(place), sample.alpha(place)
        assert image.shape[:2] == alpha.shape and alpha.shape[0] <= max_height_px and alpha.shape[1] <= 200
        rows, columns = np.nonzero((image[..., 0] > 200) & (alpha > 200))
        seen = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        assert np.abs(sample.points_px[place, 0] - seen).max() < 0.75
        ray = np.linalg.inv(camera) @ [*(dot(index) + 0.5), 1.0]
        projected = sample.intrinsics[place].astype(np.float64) @ ray
        assert np.abs(projected[:2] / projected[2] - sample.points_px[place, 0]).max() < 0.01
        shrink = sample.intrinsics[place, 0, 0] / camera[0, 0]
        assert (alpha > 127).sum() == pytest.approx(60 * 190 * shrink**2, rel=0.05)
    assert np.array_equal(sample.world_to_camera, np.tile(np.eye(4, dtype=np.float32), (6, 1, 1)))


def test_same_record_same_bytes(gated: GatedTrack) -> None:
    assert pack(PackStage(), gated) == pack(PackStage(), gated)


def test_long_tracks_become_several_even_samples(gated: GatedTrack) -> None:
    parts = pack(PackStage(max_frames=4), gated)
    assert [part.num_frames for part in parts] == [3, 3]
    assert [part.key[-3:] for part in parts] == ["_00", "_01"]
    assert [(part.first_frame, part.end_frame) for part in parts] == [(0, 10), (12, 19)]
    together = read(pack(PackStage(), gated)[0])
    assert np.array_equal(read(parts[1]).points_px, together.points_px[3:])


def test_each_sample_says_what_it_looks_like_and_whom_it_shows(gated: GatedTrack) -> None:
    (packed,), (again,) = pack(PackStage(), gated), pack(PackStage(), gated)
    signature, likeness = packed.signature, packed.likeness
    assert signature is not None and likeness is not None and again.signature is not None
    assert signature.times_s.tolist() == pytest.approx([0.0, 0.3, 0.5], abs=1e-6)  # frames 0, 9 and 15 of 30 Hz
    assert signature.frame_hashes.tolist() == again.signature.frame_hashes.tolist()
    assert len(set(signature.person_hashes.tolist()) | set(signature.frame_hashes.tolist())) > 1
    assert likeness.num_faces == 6
    for vector in (likeness.face, likeness.body):
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    (faceless,) = pack(PackStage(face=None), gated)
    assert faceless.likeness is None and faceless.members == packed.members


def test_nothing_to_keep_is_a_reject(gated: GatedTrack) -> None:
    (none_ok,) = PackStage()(replace(gated, frame_ok=np.zeros(NUM_FRAMES, bool)), StillFrames())
    assert isinstance(none_ok, Reject) and none_ok.reason == "no_frames_left" and none_ok.key == gated.key
    empty = AlphaCrop(window_px=(0, 0, 10, 10), png=encode_png(np.zeros((10, 10), np.uint8)))
    assert matte_window(empty) is None
    keypointed = gated.fitted.keypointed
    blank = replace(keypointed, matted=replace(keypointed.matted, alphas=(empty,) * NUM_FRAMES))
    (no_matte,) = PackStage()(replace(gated, fitted=replace(gated.fitted, keypointed=blank)), StillFrames())
    assert isinstance(no_matte, Reject)


def test_impossible_settings() -> None:
    for settings in ({"max_frames": 0}, {"max_height_px": 4}, {"margin": -1.0}, {"jpeg_quality": 101}):
        with pytest.raises(ConfigError, match="pack"):
            PackStage(**settings)
