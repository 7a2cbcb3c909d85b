"""Calls of several threads share batches, each gets its own results, and an error reaches all who share it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lhmforge.datasets.errors import ConfigError
from lhmforge.pipelines import ray_pools
from lhmforge.pipelines.backends.fake import FakeDetector, FakeFace
from lhmforge.pipelines.backends.roles import BackendSpec, Detections
from lhmforge.pipelines.batching import Gatherer
from lhmforge.pipelines.ray_pools import BackendHost, PoolConfig

SPEC = BackendSpec(name="fake", batch_size=4)


def frames(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        frame = np.full((60, 80, 3), 96, np.uint8)
        x = int(rng.integers(5, 55))
        frame[10:50, x : x + 15] = (230, 20, 20)
        found.append(frame)
    return found


class CountingDetector(FakeDetector):
    """Notes the size of each batch; a call takes a moment, during which others arrive."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.inside = 0

    def detect(self, frames: list[np.ndarray]) -> Iterator[Detections]:
        self.inside += 1
        assert self.inside == 1, "two calls compute at once"
        time.sleep(0.02)
        self.sizes.append(len(frames))
        yield from super().detect(frames)
        self.inside -= 1


def test_units_share_batches_and_get_their_own_results(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = CountingDetector()
    monkeypatch.setattr(ray_pools, "load_backend", lambda role, spec: detector)
    host = BackendHost("detector", max_wait_s=0.2)
    units = [frames(3, seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda unit: host.call(SPEC, "detect", (unit,), {}), units))
    assert sum(detector.sizes) == 24 and max(detector.sizes) in range(6, 17) and len(detector.sizes) <= 4
    for unit, answers in zip(units, found, strict=True):
        alone = list(FakeDetector().detect(unit))
        for one, other in zip(answers, alone, strict=True):
            np.testing.assert_array_equal(one.boxes_px, other.boxes_px)


def test_faces_share_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pools, "load_backend", lambda role, spec: FakeFace())
    host = BackendHost("face", max_wait_s=0.05)
    pictures, boxes = frames(3, 1), np.array([[0, 0, 20, 20], [5, 5, 30, 40], [0, 0, 80, 60]], np.float32)
    found = host.call(SPEC, "embed", (pictures, boxes), {})
    np.testing.assert_array_equal(found, FakeFace().embed(pictures, boxes))
    nothing = host.call(SPEC, "embed", ([], np.zeros((0, 4), np.float32)), {})
    assert nothing.shape == (0, 3)


def test_a_lone_call_waits_no_longer_than_it_must() -> None:
    gather = Gatherer(lambda items: items, max_items=100, max_wait_s=0.05)
    started = time.monotonic()
    assert gather([1, 2]) == [1, 2] and 0.04 < time.monotonic() - started < 2.0
    started = time.monotonic()
    assert gather(list(range(100))) == list(range(100)) and time.monotonic() - started < 0.04
    assert gather([]) == []


def test_an_error_reaches_everybody_and_the_next_batch_goes_on() -> None:
    broken = threading.Event()
    broken.set()

    def run(items: list[int]) -> list[int]:
        if broken.is_set():
            raise RuntimeError("out of memory")
        return [2 * item for item in items]

    gather = Gatherer(run, max_items=4, max_wait_s=0.05)

    def call(value: int) -> str:
        try:
            return str(gather([value]))
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(call, range(4))) == {"out of memory"}
    broken.clear()
    assert gather([3]) == [6]


def test_impossible_pools() -> None:
    with pytest.raises(ConfigError, match="max_actors 1"):
        PoolConfig(role="detector", num_actors=2, max_actors=1)
    with pytest.raises(ConfigError, match="at least one actor"):
        PoolConfig(role="detector", num_actors=0)
