"""The join finds copies however they were re-encoded, tells takes before one wall apart, and does not mind the order."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from curation_videos import person_frame

from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.records import Signature
from lhmforge.pipelines.frame_hash import bit_distances, frame_hash
from lhmforge.pipelines.near_duplicates import (
    Footage,
    NearDuplicateConfig,
    duplicate_pairs,
    find_near_duplicates,
)

COUNT = 24


def flipped(hashes: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    noise = np.packbits(rng.random((len(hashes), 64)) < share, axis=1).view(np.uint64).ravel()
    return hashes ^ noise


def walk(rng: np.random.Generator, count: int = COUNT) -> np.ndarray:
    """Hashes of a clip: from one frame to the next a few bits change."""
    start = rng.integers(0, 2**64, 1, dtype=np.uint64)
    steps = np.packbits(rng.random((count, 64)) < 0.04, axis=1).view(np.uint64).ravel()
    return np.bitwise_xor.accumulate(np.concatenate([start, steps]))[1:]


def footage(
    key: str, frames: np.ndarray, persons: np.ndarray, *, start_s: float = 0.0, quality: float = 1.0
) -> Footage:
    times = (start_s + 0.25 * np.arange(len(frames))).astype(np.float32)
    signature = Signature(times_s=times, frame_hashes=frames, person_hashes=persons)
    return Footage(key=key, video_digest=f"video of {key}", signature=signature, quality=quality)


@pytest.fixture
def corpus() -> list[Footage]:
    """Forty strangers; of `s00` a noisy copy and a trimmed copy, before the wall of `s01` another person."""
    rng = np.random.default_rng(5)
    items = [footage(f"s{n:02d}", walk(rng), walk(rng)) for n in range(40)]
    first, second = items[0].signature, items[1].signature
    noisy = flipped(first.frame_hashes, 0.08, rng), flipped(first.person_hashes, 0.12, rng)
    items.append(footage("copy", *noisy, quality=3.0))
    trimmed = flipped(first.frame_hashes[7:], 0.08, rng), flipped(first.person_hashes[7:], 0.12, rng)
    items.append(footage("trim", *trimmed, start_s=0.1, quality=0.5))
    items.append(footage("wall", flipped(second.frame_hashes, 0.02, rng), walk(rng)))
    return items


def test_copies_are_found_and_nothing_else(corpus: list[Footage]) -> None:
    findings = find_near_duplicates(corpus, NearDuplicateConfig())
    assert findings.group == {"s00": "copy", "copy": "copy", "trim": "copy"} and not findings.kept


def test_the_best_of_a_group_stays(corpus: list[Footage]) -> None:
    findings = find_near_duplicates(corpus, NearDuplicateConfig(policy="drop"))
    assert findings.kept == {"s00": "copy", "trim": "copy"}


def test_neither_order_nor_more_samples_change_what_is_found(corpus: list[Footage]) -> None:
    config = NearDuplicateConfig(policy="drop")
    found = find_near_duplicates(corpus, config)
    assert find_near_duplicates(corpus[::-1], config) == found
    rng = np.random.default_rng(9)
    more = [*corpus, *(footage(f"z{n:03d}", walk(rng), walk(rng)) for n in range(200))]
    assert find_near_duplicates(more, config) == found


def test_moments_of_one_video_are_no_duplicates(corpus: list[Footage]) -> None:
    one_video = [replace(item, video_digest="same") for item in corpus]
    assert len(duplicate_pairs(sorted(one_video, key=lambda item: item.key), NearDuplicateConfig())) == 0


def test_too_short_an_overlap_proves_nothing() -> None:
    rng = np.random.default_rng(1)
    frames, persons = (rng.integers(0, 2**64, 40, dtype=np.uint64) for _ in range(2))
    items = [footage("a", frames[:24], persons[:24]), footage("b", frames[16:], persons[16:])]
    assert len(duplicate_pairs(items, NearDuplicateConfig(min_overlap=0.5))) == 0
    assert len(duplicate_pairs(items, NearDuplicateConfig(min_overlap=0.3))) == 1


def test_nothing_to_compare() -> None:
    assert find_near_duplicates([], NearDuplicateConfig()).group == {}
    with pytest.raises(ConfigError, match="min_overlap"):
        NearDuplicateConfig(min_overlap=0.0)


def test_hashes_survive_what_happens_to_videos() -> None:
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    figure = person_frame(640, 480, centre=0.4, colour=(230, 20, 20))
    picture = np.where((figure != 96).any(axis=2, keepdims=True), figure, wall)
    coarse = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 15])[1], cv2.IMREAD_COLOR)
    small = cv2.resize(picture, (213, 160), interpolation=cv2.INTER_AREA)
    changed = [coarse, small, picture[10:-10, 13:-13]]
    other = cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    hashes = np.array([frame_hash(p) for p in (picture, *changed, other)], np.uint64)
    distances = bit_distances(hashes[:1], hashes)[0].tolist()
    assert distances[0] == 0 and max(distances[1:3]) <= 4 and distances[3] <= 14 and distances[4] >= 22
