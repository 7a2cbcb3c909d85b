"""Tracking scores: perfect, switched, lost and false tracks on two boxes that pass each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.records import TrackPath
from lhmforge.datasets.synthetic.truth import ClipTruth, PersonTruth
from lhmforge.pipelines.qa.tracking_scores import (
    TrackedClip,
    followed_person,
    person_frames,
    score_tracking,
)

COUNT = 10
LEFT = np.stack([np.arange(COUNT) * 20.0, np.zeros(COUNT), np.arange(COUNT) * 20.0 + 50, np.full(COUNT, 100.0)], 1)
RIGHT = LEFT[::-1].copy()
RIGHT[:, [1, 3]] += 10  # apart even where they meet


def person(boxes: np.ndarray, visible: np.ndarray | None = None) -> PersonTruth:
    return PersonTruth(
        body=BodyParams.rest(COUNT),
        points_px=np.zeros((COUNT, 133, 2), np.float32),
        visible=np.zeros((COUNT, 133), bool),
        alpha_pngs=(b"",) * COUNT,
        boxes_px=boxes.astype(np.float32),
        visible_share=np.ones(COUNT, np.float32) if visible is None else visible.astype(np.float32),
    )


def path(name: str, boxes: np.ndarray, frames: np.ndarray | None = None) -> TrackPath:
    frames = np.arange(COUNT) if frames is None else frames
    return TrackPath(
        key=name,
        frame_indices=frames.astype(np.int64),
        boxes_px=boxes[frames].astype(np.float32),
        scores=np.ones(len(frames), np.float32),
    )


@pytest.fixture
def clip() -> TrackedClip:
    truth = ClipTruth(
        fps=10.0, intrinsics=np.eye(3, dtype=np.float32), body_digest="b", persons=(person(LEFT), person(RIGHT))
    )
    return TrackedClip(source_id="s", truth=truth, paths=(path("a", LEFT), path("b", RIGHT)), frames=np.arange(COUNT))


def test_perfect_tracks(clip: TrackedClip) -> None:
    scores = score_tracking([clip, clip])
    assert (scores.idf1, scores.mota, scores.num_switches) == (1.0, 1.0, 0)
    assert (scores.num_persons, scores.num_required, scores.num_missed, scores.num_false) == (4, 40, 0, 0)
    assert followed_person(clip.paths[1], clip.truth) == 1
    assert {item.track_key for item in person_frames(clip) if item.person == 0} == {"a"}


def test_tracks_that_exchange_people_count_two_switches(clip: TrackedClip) -> None:
    half = COUNT // 2
    first, second = np.concatenate([LEFT[:half], RIGHT[half:]]), np.concatenate([RIGHT[:half], LEFT[half:]])
    scores = score_tracking([replace(clip, paths=(path("a", first), path("b", second)))])
    assert scores.num_switches == 2 and scores.idf1 == pytest.approx(0.5) and scores.recall == 1
    assert scores.mota == pytest.approx(1 - 2 / 20)


def test_lost_and_false_ones(clip: TrackedClip) -> None:
    elsewhere = LEFT + 500
    scores = score_tracking([replace(clip, paths=(path("a", LEFT, np.arange(5)), path("c", elsewhere)))])
    assert (scores.num_missed, scores.num_false) == (15, 10)
    assert scores.mota == pytest.approx((5 - 10) / 20)
    assert followed_person(path("c", elsewhere), clip.truth) is None


def test_nobody_needs_to_find_the_hidden_and_finding_them_is_no_error(clip: TrackedClip) -> None:
    hidden = np.where(np.arange(COUNT) < 4, 0.1, 1.0)
    truth = replace(clip.truth, persons=(person(LEFT), person(RIGHT, hidden)))
    for paths in (clip.paths, (clip.paths[0], path("b", RIGHT, np.arange(4, COUNT)))):
        scores = score_tracking([replace(clip, truth=truth, paths=paths)])
        assert (scores.num_required, scores.num_missed, scores.num_false, scores.mota) == (16, 0, 0, 1.0)
    frames = person_frames(replace(clip, truth=truth, paths=()))
    assert sum(item.is_required for item in frames) == 16 and all(item.track_key == "" for item in frames)
