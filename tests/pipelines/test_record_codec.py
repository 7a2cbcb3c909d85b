"""Stored records: what goes in comes out, the same records give the same bytes, torn bytes are refused."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.records import (
    AlphaCrop,
    Clip,
    FittedTrack,
    Keypoints,
    KeypointTrack,
    MattedTrack,
    Reject,
    SourceVideo,
    Track,
    TrackScores,
    Video,
)
from lhmforge.pipelines.record_codec import decode_records, encode_records

_SOURCE = SourceVideo(uri="u", source_id="s", licence="CC0")


def _fitted(num_frames: int = 3) -> FittedTrack:
    video = Video(
        source=_SOURCE, digest="d" * 64, container="mp4", codec="h264", width_px=4, height_px=5, rotation_deg=90,
        num_frames=9, fps=23.976, duration_s=0.3, bit_depth=10,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    floats = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    track = Track(
        clip=Clip(video=video, first_frame=0, end_frame=9),
        person=1,
        frame_indices=np.arange(num_frames, dtype=np.int64),
        boxes_px=floats(num_frames, 4),
        scores=floats(num_frames),
        other_boxes_px=tuple(floats(count, 4) for count in range(num_frames)),
    )
    alphas = tuple(AlphaCrop(window_px=(0, 1, 2, 3), png=bytes([index])) for index in range(num_frames))
    keypoints = Keypoints(
        points_px=floats(num_frames, 133, 2), scores=floats(num_frames, 133), landmark_set="none",
        landmarks_m=floats(num_frames, 0, 3), landmark_scores=floats(num_frames, 0),
        blendshapes=floats(num_frames, 52), face_px=floats(num_frames, 0, 2),
    )  # fmt: skip
    return FittedTrack(
        keypointed=KeypointTrack(matted=MattedTrack(track=track, alphas=alphas), keypoints=keypoints),
        body=BodyParams.rest(num_frames), body_digest="b", intrinsics=np.eye(3, dtype=np.float32),
        reprojection_px=floats(num_frames), pose_uncertainty_rad=np.full(num_frames, np.nan, np.float32),
    )  # fmt: skip


def _equal(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    if hasattr(left, "__dataclass_fields__") and type(left) is type(right):
        return all(_equal(getattr(left, f.name), getattr(right, f.name)) for f in fields(left))  # type: ignore[arg-type]
    return left == right


def test_round_trip_and_equal_bytes() -> None:
    fitted = _fitted()
    reject = Reject(key="k", source=_SOURCE, stage="fit", reason="no_person", detail="é")
    data = encode_records([fitted, reject, (1, 2.5, "x", None)])
    assert data == encode_records([_fitted(), reject, (1, 2.5, "x", None)])
    found = decode_records(data)
    assert _equal(found[0], fitted) and found[1] == reject and found[2] == (1, 2.5, "x", None)


def test_the_source_is_filled_in() -> None:
    data = encode_records([_fitted()], source=_SOURCE)
    newer = replace(_SOURCE, licence="withdrawn")
    assert decode_records(data, source=newer)[0].track.clip.video.source == newer


def test_missing_scores_survive() -> None:
    scores = TrackScores(**{f.name: float("nan") for f in fields(TrackScores)})
    reject = Reject(key="k", source=_SOURCE, stage="gate", reason="blurry", detail="", scores=scores)
    assert np.isnan(decode_records(encode_records([reject]))[0].scores.jitter)


def test_torn_bytes_are_refused() -> None:
    data = encode_records([_fitted()])
    for broken in (b"", data[:100], data[:-40], b"x" * 500):
        with pytest.raises(ShardError):
            decode_records(broken)


def test_only_records_are_stored() -> None:
    with pytest.raises(AssertionError):
        encode_records([object()])
    with pytest.raises(AssertionError):
        encode_records([np.array([{}], object)])
