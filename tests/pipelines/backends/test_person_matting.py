"""What a foreground matte lacks or has too much of is put right by the pose landmarker's mask, on a real person."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from people import track

from lhmforge.datasets.records import Track
from lhmforge.pipelines.alpha import full_alpha
from lhmforge.pipelines.backends.modnet import ModNetMatting
from lhmforge.pipelines.backends.person_matting import Foreground, matte_person
from lhmforge.pipelines.backends.roles import BackendSpec


@pytest.fixture(scope="module")
def person(real_videos: Path) -> tuple[Track, np.ndarray]:
    """One frame of a standing man with his box."""
    capture = cv2.VideoCapture(str(real_videos / "standing_man.mp4"))
    frame = np.ascontiguousarray(capture.read()[1][..., ::-1])
    capture.release()
    return track([frame], np.array([[170, 250, 520, 1210]], np.float32)), frame


def _matte(person: tuple[Track, np.ndarray], foreground: Foreground) -> np.ndarray:
    found, frame = person
    (crop,) = matte_person(iter([frame]), found, foreground, lambda width, height: (288, 288 * height // width))
    return full_alpha(crop, width=frame.shape[1], height=frame.shape[0]).astype(np.float32) / 255


@pytest.fixture(scope="module")
def network() -> Foreground:
    """MODNet at a size that its stride divides."""
    modnet = ModNetMatting(BackendSpec(name="modnet"))

    def run(picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        fitting = cv2.resize(picture, (width // 32 * 32, height // 32 * 32), interpolation=cv2.INTER_AREA)
        return cv2.resize(modnet._foreground(fitting), (width, height), interpolation=cv2.INTER_LINEAR)

    return run


@pytest.fixture(scope="module")
def whole(person: tuple[Track, np.ndarray], network: Foreground) -> np.ndarray:
    return _matte(person, network)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    first, second = a >= 0.5, b >= 0.5
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize(("top", "bottom", "left", "right"), [(0.7, 0.9, 0.0, 1.0), (0.35, 0.45, 0.4, 0.6)])
def test_a_part_that_the_network_misses_is_filled(
    person: tuple[Track, np.ndarray],
    network: Foreground,
    whole: np.ndarray,
    top: float,
    bottom: float,
    left: float,
    right: float,
) -> None:
    lost: list[float] = []

    def holed(picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        alpha = network(picture).copy()
        part = alpha[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
        lost.append(float((part >= 0.5).sum() / (alpha >= 0.5).sum()))
        part[:] = 0
        return alpha

    filled = _matte(person, holed)
    assert lost[0] > 0.02
    assert _iou(filled, whole) > 1 - 0.35 * lost[0]


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_network_that_says_nothing_leaves_the_mask_at_the_pictures_edges(
    person: tuple[Track, np.ndarray], whole: np.ndarray, level: float
) -> None:
    """Nobody is in front, or everything is."""
    mask = _matte(person, lambda picture: np.full(picture.shape[:2], level, np.float32))
    assert _iou(mask, whole) > 0.93
