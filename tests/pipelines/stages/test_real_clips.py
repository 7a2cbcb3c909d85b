"""The embedded default backends on real clips: who is found, who is who, and that nothing depends on chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from people import MemoryContext, video

from lhmforge.datasets.records import Clip, KeypointTrack, MattedTrack, Reject, Track, Video
from lhmforge.pipelines import wholebody as order
from lhmforge.pipelines.alpha import full_alpha
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.stages.keypoints import KeypointsStage
from lhmforge.pipelines.stages.matte import MatteStage
from lhmforge.pipelines.stages.shots import ShotsStage
from lhmforge.pipelines.stages.track import TrackStage


class _FileContext(MemoryContext):
    def __init__(self) -> None:
        super().__init__([])

    def frames(self, source: Video, frame_indices: np.ndarray) -> Iterator[np.ndarray]:
        capture = cv2.VideoCapture(source.source.uri)
        wanted, index = set(frame_indices.tolist()), 0
        while index <= max(wanted):
            assert capture.grab()
            if index in wanted:
                yield np.ascontiguousarray(capture.retrieve()[1][..., ::-1])
            index += 1
        capture.release()


def _video(folder: Path, name: str) -> Video:
    capture = cv2.VideoCapture(str(folder / name))
    size = [int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
    count, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    return video(width=size[0], height=size[1], num_frames=count, fps=fps, uri=str(folder / name))


def _clip(folder: Path, name: str, first: int, end: int) -> Clip:
    return Clip(video=_video(folder, name), first_frame=first, end_frame=end)


def test_cuts_are_found_and_an_exposure_jump_is_none(real_videos: Path) -> None:
    stage = ShotsStage()
    clips = [clip for clip in stage(_video(real_videos, "six_shots.mp4"), _FileContext()) if isinstance(clip, Clip)]
    assert [clip.first_frame for clip in clips] == [0, 31, 77, 138, 188]  # one frame is left out beside each cut
    whole = list(stage(_video(real_videos, "two_people_outdoors.mp4"), _FileContext()))
    assert [(clip.first_frame, clip.end_frame) for clip in whole if isinstance(clip, Clip)] == [(0, 230)]


@pytest.mark.slow
@pytest.mark.parametrize("fps", [5.0, 7.5, 10.0])
def test_three_people_who_cross_stay_themselves(real_videos: Path, fps: float) -> None:
    """Where each person stands at several times was read from the clip's frames; faces are looked at besides."""
    path = real_videos / "three_people_crossing.mp4"
    tracks = list(TrackStage(sample_fps=fps)(_clip(real_videos, path.name, 190, 400), _FileContext()))
    people = [track for track in tracks if isinstance(track, Track)]
    assert len(people) == 3
    beard, woman, suit = sorted(people, key=lambda track: float(track.boxes_px[0, 0]))
    for track, until, side, since in ((beard, 210, 330, 290), (woman, 210, 560, 350), (suit, 250, 860, 345)):
        middle = track.boxes_px[:, [0, 2]].mean(axis=1)
        early, late = track.frame_indices <= until, track.frame_indices >= since
        assert early.sum() >= 3 and late.sum() >= 5
        assert np.abs(middle[early] - side).max() < 200
        goal = {330: 870, 560: 600, 860: 270}[side]
        assert np.abs(middle[late] - goal).max() < 120
    faces = [_faces(path, track) for track in people]
    references = _known_faces(people[0].clip.video)
    for number, sides in enumerate(faces):
        for side in sides:
            alike = [float((side @ known.T).max(axis=1).mean()) for known in references]
            assert int(np.argmax(alike)) == number and sorted(alike)[-1] > sorted(alike)[-2] + 0.1


def _known_faces(source: Video) -> list[np.ndarray]:
    """Faces of the beard, the woman and the suit at frames where they were told apart by eye; boxes hold the heads."""
    heads = {
        0: ((0, 400), (380, 620), (620, 1000)),
        100: ((100, 420), (420, 610), (580, 860)),
        345: ((620, 1080), (340, 560), (0, 360)),
        420: ((650, 1000), (400, 600), (0, 380)),
    }
    embedder = load_backend("face", BackendSpec(name="sface"))
    frames = list(_FileContext().frames(source, np.array(list(heads))))
    boxes = [np.array([(left, 0, right, 420) for left, right in row], np.float32) for row in heads.values()]
    seen = [embedder.embed([frame] * 3, box) for frame, box in zip(frames, boxes, strict=True)]
    return list(np.stack(seen, axis=1))


def _faces(path: Path, track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Identity vectors of the faces of a track before anybody crossed and after everybody has."""
    embedder = load_backend("face", BackendSpec(name="sface"))
    sides: list[np.ndarray] = []
    for side in (track.frame_indices < 212, track.frame_indices >= 350):
        rows = np.flatnonzero(side)[:: max(1, int(side.sum()) // 4)]
        frames = list(_FileContext().frames(track.clip.video, track.frame_indices[rows]))
        heads = track.boxes_px[rows].copy()
        heads[:, 3] = heads[:, 1] + 0.4 * (heads[:, 3] - heads[:, 1])
        vectors = embedder.embed(frames, heads)
        sides.append(vectors[np.isfinite(vectors).all(axis=1)])
        assert len(sides[-1])
    return sides[0], sides[1]


@pytest.mark.parametrize(("name", "first", "end"), [("four_views_cam04.mp4", 0, 100), ("six_shots.mp4", 77, 136)])
def test_a_short_clip_of_one_person_is_long_enough(real_videos: Path, name: str, first: int, end: int) -> None:
    """A man seen from behind for 1.7 s; a cyclist who is free of cars for the last second."""
    (track,) = TrackStage(sample_fps=5.0)(_clip(real_videos, name, first, end), _FileContext())
    assert isinstance(track, Track)
    assert 5 <= len(track.frame_indices) <= 9
    assert (track.scores > 0.8).all()


@pytest.mark.parametrize("min_score", [TrackStage().min_score, pytest.param(0.3, marks=pytest.mark.slow)])
def test_a_globe_that_the_detector_takes_for_a_person_is_rejected(real_videos: Path, min_score: float) -> None:
    """By the doubtful detections; where a recipe asks for less, by the body that the pose model does not see."""
    context = _FileContext()
    clip = _clip(real_videos, "nobody.mp4", 660, 715)
    (end,) = TrackStage(sample_fps=10.0, min_score=min_score)(clip, context)
    if isinstance(end, Track):
        (end,) = MatteStage()(end, context)
    if isinstance(end, MattedTrack):
        (end,) = KeypointsStage()(end, context)
    assert isinstance(end, Reject)
    assert end.reason == ("detection_doubtful" if min_score > 0.5 else "no_keypoints")


@pytest.fixture(scope="module")
def standing(real_videos: Path) -> KeypointTrack:
    context = _FileContext()
    (track,) = TrackStage(sample_fps=10.0, min_frames=3, min_duration_s=0.2)(
        _clip(real_videos, "standing_man.mp4", 0, 16), context
    )
    assert isinstance(track, Track)
    (matted,) = MatteStage()(track, context)
    assert isinstance(matted, MattedTrack)
    (keypointed,) = KeypointsStage()(matted, context)
    assert isinstance(keypointed, KeypointTrack)
    return keypointed


def test_matte_and_keypoints_agree_on_the_person(standing: KeypointTrack) -> None:
    matted, keypoints = standing.matted, standing.keypoints
    clip = matted.track.clip
    for row, crop in enumerate(matted.alphas):
        alpha = full_alpha(crop, width=clip.video.width_px, height=clip.video.height_px)
        x0, y0, x1, y1 = matted.track.boxes_px[row]
        assert 0.3 < (alpha > 127).sum() / ((x1 - x0) * (y1 - y0)) < 0.9
        joints = keypoints.points_px[row, 5:17]
        inside = alpha[joints[:, 1].astype(int), joints[:, 0].astype(int)] > 127
        assert inside.mean() >= 0.9
    assert (keypoints.scores[:, order.BODY] > 0.5).mean() > 0.9
    assert (keypoints.scores[:, order.FACE] > 0).all()
    left, right = keypoints.points_px[:, 5, 0], keypoints.points_px[:, 6, 0]
    assert (left > right).all()  # he faces the camera: his left is on the image's right
    head, feet = keypoints.landmarks_m[:, 0, 1], keypoints.landmarks_m[:, 31, 1]
    assert (feet - head > 1.2).all()


def test_a_second_run_gives_the_same_bytes(standing: KeypointTrack) -> None:
    context = _FileContext()
    (matted,) = MatteStage()(standing.matted.track, context)
    assert isinstance(matted, MattedTrack)
    assert [crop.png for crop in matted.alphas] == [crop.png for crop in standing.matted.alphas]
    (again,) = KeypointsStage()(matted, context)
    assert isinstance(again, KeypointTrack)
    for entry in dataclasses.fields(again.keypoints):
        np.testing.assert_array_equal(getattr(again.keypoints, entry.name), getattr(standing.keypoints, entry.name))
