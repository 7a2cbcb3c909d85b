"""COCO-WholeBody order: mirror pairs, subsets, and the way from Goliath's 308 points."""

from __future__ import annotations

import numpy as np
import pytest

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines import wholebody as order
from lhmforge.pipelines.backends.keypoint_sets import fill_hand_wrists, wholebody_target
from lhmforge.pipelines.backends.mediapipe_wholebody import FACE_68, to_wholebody


def test_mirroring_twice_changes_nothing_and_sides_change() -> None:
    mirror = order.mirror_index()
    assert len(order.NAMES) == order.NUM_POINTS
    np.testing.assert_array_equal(mirror[mirror], np.arange(order.NUM_POINTS))
    left = [index for index, name in enumerate(order.NAMES) if name.startswith("left_")]
    assert all(order.NAMES[mirror[index]].startswith("right_") for index in left)


def test_goliath_points_have_distinct_targets_and_hands_run_from_tip_to_base() -> None:
    target = wholebody_target(308, what="test")
    used = target[target >= 0]
    assert len(used) == len(set(used.tolist()))
    assert order.NAMES[target[21]] == "right_hand_thumb_4"
    assert order.NAMES[target[24]] == "right_hand_thumb_1"
    assert order.NAMES[target[46]] == "left_hand_index_4"
    assert order.NAMES[target[62]] == "left_wrist"
    assert order.NAMES[target[9]] == "left_hip"
    assert order.NAMES[target[20]] == "right_heel"


def test_wrists_of_a_set_with_one_wrist_reach_the_hands() -> None:
    points, scores = np.zeros((1, 133, 2), np.float32), np.zeros((1, 133), np.float32)
    points[0, 9], scores[0, 9], scores[0, 95] = (7, 8), 0.8, 0.5
    fill_hand_wrists(points, scores)
    np.testing.assert_array_equal(points[0, order.LEFT_HAND.start], (7, 8))
    assert scores[0, order.LEFT_HAND.start] == np.float32(0.8)
    assert scores[0, order.RIGHT_HAND.start] == 0


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(BackendError, match="26 keypoints"):
        wholebody_target(26, what="a model")


def test_mediapipe_body_without_hands_and_face_leaves_them_unobserved() -> None:
    pose = np.arange(66, dtype=np.float32).reshape(33, 2)
    rows = to_wholebody(pose, np.full(33, 0.8, np.float32), None, None, None)
    np.testing.assert_array_equal(rows[order.NAMES.index("left_wrist"), :2], pose[15])
    np.testing.assert_array_equal(rows[order.NAMES.index("right_heel"), :2], pose[30])
    assert rows[order.NAMES.index("left_small_toe"), 2] == 0
    assert (rows[order.FACE, 2] == 0).all()
    assert (rows[order.LEFT_HAND, 2] > 0).sum() == 4
    assert len(set(FACE_68)) == 68
