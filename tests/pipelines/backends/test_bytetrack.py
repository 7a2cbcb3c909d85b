"""ByteTrack: the first sight of a person counts, and people who pass each other at a distance keep their tracks."""

from __future__ import annotations

import numpy as np

from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec, Detections, Tracklet


def _link(boxes: list[list[list[float]]]) -> list[Tracklet]:
    detections = [
        Detections(
            boxes_px=np.array(frame, np.float32).reshape(-1, 4),
            scores=np.full(len(frame), 0.9, np.float32),
            appearance=np.zeros((len(frame), 0), np.float32),
        )
        for frame in boxes
    ]
    return list(load_backend("tracker", BackendSpec(name="bytetrack")).link(detections, fps=5.0))


def _walk(x: float) -> list[float]:
    return [x, 0, x + 40, 100]


def test_a_person_is_followed_from_the_first_sight() -> None:
    (track,) = _link([[], [], *([_walk(5 * step)] for step in range(6))])
    assert track.positions.tolist() == [2, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(track.boxes_px[0], _walk(0))


def test_two_people_have_a_track_each_and_no_box_twice() -> None:
    tracks = _link([[_walk(5 * step), _walk(300 - 5 * step)] for step in range(8)])
    assert [track.positions.tolist() for track in tracks] == [list(range(8))] * 2
    assert sorted(float(track.boxes_px[0, 0]) for track in tracks) == [0, 300]


def test_nobody_gives_no_track() -> None:
    assert _link([[], [], []]) == []
