"""Cutting and joining: doubt cuts a tracklet, faces name people whose clothes are alike, a contradiction joins nobody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lhmforge.pipelines.backends.roles import Detections, Tracklet
from lhmforge.pipelines.heads import Sighting
from lhmforge.pipelines.identity import resolve_identities
from lhmforge.pipelines.pieces import FaceVectors, IdentityConfig, clean_pieces

CONFIG = IdentityConfig()
GREY = np.array([1, 0, 0], np.float32)


def _box(x: float, y: float = 0.0, size: float = 40.0) -> list[float]:
    return [x, y, x + size, y + 2.5 * size]


def _detections(frames: list[list[list[float]]], scores: list[float] | None = None) -> list[Detections]:
    return [
        Detections(
            boxes_px=np.array(frame, np.float32),
            scores=np.array((scores or [0.9] * len(frame))[: len(frame)], np.float32),
            appearance=np.tile(GREY, (len(frame), 1)),
        )
        for frame in frames
    ]


def _tracklet(detections: list[Detections], rows: Sequence[int]) -> Tracklet:
    """The tracklet that takes detection `rows[t]` at position t."""
    return Tracklet(
        positions=np.arange(len(rows), dtype=np.int64),
        boxes_px=np.stack([found.boxes_px[row] for found, row in zip(detections, rows, strict=True)]),
        scores=np.full(len(rows), 0.9, np.float32),
    )


def _faces_of(names: Sequence[Sequence[int]]) -> FaceVectors:
    """The face of detection k at position t is that of person `names[t][k]`, -1 hides it."""

    def look(sightings: Sequence[Sighting]) -> np.ndarray:
        unit = np.concatenate([np.eye(3), np.full((1, 3), np.nan)]).astype(np.float32)
        return unit[[names[position][row] for position, row in sightings]].reshape(-1, 3)

    return look


def _cuts(detections: list[Detections], rows: Sequence[int], faces: FaceVectors | None = None) -> list[list[int]]:
    pieces = clean_pieces([_tracklet(detections, rows)], detections, CONFIG, faces)
    return [piece.positions.tolist() for piece in pieces]


def test_a_walk_alone_is_one_piece() -> None:
    assert _cuts(_detections([[_box(5 * t)] for t in range(8)]), [0] * 8) == [list(range(8))]


def test_a_step_that_somebody_else_fits_as_well_is_a_cut() -> None:
    """Between positions 3 and 4 two people are equally near to the last box, side by side and hardly covering."""
    frames = [[_box(0), _box(200)] for _ in range(4)] + [[_box(-22), _box(22)] for _ in range(4)]
    assert _cuts(_detections(frames), [0] * 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_leap_is_a_cut() -> None:
    frames = [[_box(0)] for _ in range(4)] + [[_box(300)] for _ in range(4)]
    assert _cuts(_detections(frames), [0] * 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_weak_box_around_a_person_covers_nobody_and_a_strong_one_does() -> None:
    frames = [[_box(20, 20), _box(0, 0, 80)] for _ in range(6)]
    assert _cuts(_detections(frames, [0.9, 0.5]), [0] * 6) == [list(range(6))]
    assert _cuts(_detections(frames, [0.9, 0.8]), [0] * 6) == []


def test_another_face_is_a_cut_and_the_positions_between_the_looks_are_left_out() -> None:
    detections = _detections([[_box(0)] for _ in range(17)])
    parts = _cuts(detections, [0] * 17, _faces_of([[0]] * 10 + [[1]] * 7))
    assert len(parts) == 2
    assert parts[0][0] == 0 and parts[0][-1] <= 9 and parts[1][0] >= 10 and parts[1][-1] == 16


def _crossing() -> list[Detections]:
    """Two people dressed alike walk through each other; detection k is person k."""
    return _detections([[_box(10 * t), _box(200 - 10 * t)] for t in range(21)])


def test_faces_put_a_swap_of_look_alikes_right() -> None:
    detections = _crossing()
    swapped = [0] * 11 + [1] * 10
    tracklets = [_tracklet(detections, swapped), _tracklet(detections, [1 - row for row in swapped])]
    persons = resolve_identities(tracklets, detections, CONFIG, _faces_of([[0, 1]] * 21))
    assert len(persons) == 2
    for row, person in enumerate(persons):
        truth = np.stack([detections[position].boxes_px[row] for position in person.positions])
        np.testing.assert_array_equal(person.boxes_px, truth)
        assert person.positions[0] == 0 and person.positions[-1] == 20


def test_look_alikes_without_faces_are_left_apart() -> None:
    detections = _crossing()
    tracklets = [_tracklet(detections, [0] * 21), _tracklet(detections, [1] * 21)]
    persons = resolve_identities(tracklets, detections, CONFIG, _faces_of([[-1, -1]] * 21))
    assert len(persons) == 4
    assert all(person.positions[-1] < 10 or person.positions[0] > 10 for person in persons)


def test_a_known_face_over_other_clothes_joins_nobody() -> None:
    frames = _detections([[_box(0)] for _ in range(16)])
    other = np.array([0, 1, 0], np.float32)
    dressed = [
        found if t < 8 else Detections(boxes_px=found.boxes_px, scores=found.scores, appearance=other[None])
        for t, found in enumerate(frames)
    ]
    persons = resolve_identities([_tracklet(dressed, [0] * 16)], dressed, CONFIG, _faces_of([[0]] * 16))
    assert [person.positions.tolist() for person in persons] == [list(range(8)), list(range(8, 16))]
