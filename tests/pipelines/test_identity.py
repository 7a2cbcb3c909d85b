"""Identities: a swap by the tracker is cut and put right, people are joined over gaps, look-alikes are not mixed."""

from __future__ import annotations

import numpy as np

from lhmforge.pipelines.backends.roles import Detections, Tracklet
from lhmforge.pipelines.identity import resolve_identities
from lhmforge.pipelines.pieces import IdentityConfig

RED, BLUE, GREEN = np.eye(3, dtype=np.float32)


def _crossing(num: int, colours: tuple[np.ndarray, np.ndarray]) -> tuple[list[Detections], np.ndarray]:
    """Two people walk through each other; boxes [2, num, 4] of the true persons."""
    x = np.linspace(0, 200, num)
    left = np.stack([x, 0 * x, x + 40, 0 * x + 100], axis=1)
    right = np.stack([200 - x, 0 * x, 240 - x, 0 * x + 100], axis=1)
    boxes = np.stack([left, right]).astype(np.float32)
    detections = [
        Detections(boxes_px=boxes[:, t], scores=np.full(2, 0.9, np.float32), appearance=np.stack(colours))
        for t in range(num)
    ]
    return detections, boxes


def _tracklet(boxes: np.ndarray, start: int = 0) -> Tracklet:
    positions = np.arange(start, start + len(boxes), dtype=np.int64)
    return Tracklet(positions=positions, boxes_px=boxes, scores=np.full(len(boxes), 0.9, np.float32))


def test_a_swap_at_a_crossing_is_put_right() -> None:
    detections, boxes = _crossing(21, (RED, BLUE))
    swapped = boxes.copy()
    swapped[0, 11:], swapped[1, 11:] = boxes[1, 11:], boxes[0, 11:]
    persons = resolve_identities([_tracklet(swapped[0]), _tracklet(swapped[1])], detections, IdentityConfig())
    assert len(persons) == 2
    for truth, person in zip(boxes, persons, strict=True):
        np.testing.assert_array_equal(person.boxes_px, truth[person.positions])
        assert len(person.positions) >= 14
        assert 10 not in person.positions  # in the middle of the crossing nobody can tell


def test_a_person_who_comes_back_is_the_same_track() -> None:
    detections, boxes = _crossing(20, (RED, BLUE))
    alone = [_tracklet(boxes[0, :6]), _tracklet(boxes[0, 14:], start=14)]
    persons = resolve_identities(alone, detections, IdentityConfig())
    assert len(persons) == 1
    assert persons[0].positions.tolist() == [*range(6), *range(14, 20)]


def test_look_alikes_stay_apart_rather_than_being_mixed() -> None:
    detections, boxes = _crossing(20, (GREEN, GREEN))
    parts = [_tracklet(boxes[0, :6]), _tracklet(boxes[1, :6])]
    parts += [_tracklet(boxes[0, 14:], start=14), _tracklet(boxes[1, 14:], start=14)]
    persons = resolve_identities(parts, detections, IdentityConfig())
    assert len(persons) == 4


def test_order_is_by_first_sight_then_from_left_to_right() -> None:
    detections, boxes = _crossing(20, (RED, BLUE))
    late, early = _tracklet(boxes[0, 4:8], start=4), _tracklet(boxes[1, :8])
    persons = resolve_identities([late, early], detections, IdentityConfig())
    assert [int(person.positions[0]) for person in persons] == [0, 4]
