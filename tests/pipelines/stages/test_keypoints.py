"""The keypoint stage: which tracks show a body."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from people import MemoryContext, track

from lhmforge.datasets.records import Keypoints, KeypointTrack, MattedTrack, Reject, Track
from lhmforge.pipelines.alpha import encode_alpha
from lhmforge.pipelines.backends.topdown_keypoints import without_landmarks
from lhmforge.pipelines.stages.keypoints import KeypointsStage


class _Sees:
    """A keypoint backend that sees a body in the given frames."""

    def __init__(self, seen: str) -> None:
        self._seen = seen

    def estimate(self, frames: Iterable[np.ndarray], track: Track) -> Keypoints:
        assert len(list(frames)) == len(self._seen)
        scores = np.zeros((len(self._seen), 133), np.float32)
        scores[[flag == "x" for flag in self._seen], :17] = 0.9
        points = np.tile(np.linspace(10, 60, 133, dtype=np.float32)[:, None], (len(self._seen), 1, 2))
        return without_landmarks(points, scores)


@pytest.mark.parametrize(
    ("seen", "accepted"),
    [
        ("xxxxxxxx", True),
        ("xxxx....", True),
        ("xxx.....", False),
        ("x.x.x.x.", False),  # half of the frames, but never two in a row
        ("xx.xx.x.", True),
        ("x", True),
        (".", False),
    ],
)
def test_a_body_must_be_seen_steadily(seen: str, accepted: bool) -> None:
    frames = [np.zeros((80, 60, 3), np.uint8)] * len(seen)
    person = track(frames, np.tile(np.array([10, 10, 50, 70], np.float32), (len(seen), 1)))
    alpha = encode_alpha(np.ones((60, 40), np.float32), (10, 10, 50, 70))
    matted = MattedTrack(track=person, alphas=(alpha,) * len(seen))
    (end,) = KeypointsStage()(matted, MemoryContext(frames, {"keypoints": _Sees(seen)}))
    assert isinstance(end, KeypointTrack if accepted else Reject)
    if isinstance(end, Reject):
        assert end.reason == "no_keypoints"
