"""What all top-down whole-body backends share: crops in batches, decoding, and the record that they return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.records import Keypoints, Track
from lhmforge.pipelines.backends.keypoint_sets import fill_hand_wrists, wholebody_target
from lhmforge.pipelines.topdown import Crop, crop_person
from lhmforge.pipelines.wholebody import from_subset

Item = TypeVar("Item")
# Crops of one batch -> per crop the points as rows x, y (crop px), score.
Infer = Callable[[Sequence[Crop]], Sequence[Float32[np.ndarray, "K 3"]]]


def estimate_topdown(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    track: Track,
    infer: Infer,
    *,
    width: int,
    height: int,
    batch_size: int,
    what: str,
) -> Keypoints:
    """Runs `infer` over the track's crops in batches; points outside the frame score 0."""
    rows: list[np.ndarray] = []
    for batch in in_batches(zip(frames, track.boxes_px, strict=True), batch_size):
        crops = [crop_person(frame, box, width=width, height=height) for frame, box in batch]
        for (frame, _), crop, found in zip(batch, crops, infer(crops), strict=True):
            points = crop.to_frame(found[:, :2])
            inside = ((points >= 0) & (points < [frame.shape[1], frame.shape[0]])).all(axis=1)
            rows.append(np.concatenate([points, np.where(inside, found[:, 2], 0)[:, None]], axis=1))
    stacked = np.stack(rows).astype(np.float32)
    points, scores = from_subset(stacked[..., :2], stacked[..., 2], wholebody_target(stacked.shape[1], what=what))
    fill_hand_wrists(points, scores)
    return without_landmarks(points, scores)


def without_landmarks(points: Float32[np.ndarray, "N 133 2"], scores: Float32[np.ndarray, "N 133"]) -> Keypoints:
    """Keypoints of a model that gives no 3D landmarks, blendshapes or face mesh."""
    count = len(points)
    return Keypoints(
        points_px=points,
        scores=scores,
        landmark_set="none",
        landmarks_m=np.zeros((count, 0, 3), np.float32),
        landmark_scores=np.zeros((count, 0), np.float32),
        blendshapes=np.zeros((count, 0), np.float32),
        face_px=np.zeros((count, 0, 2), np.float32),
    )


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, max(1, size))):
        yield batch
