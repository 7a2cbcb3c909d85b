"""The gate: a good track passes; each corruption ends with its own reason and keeps its scores."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.codecs import encode_png
from lhmforge.datasets.errors import BodyError
from lhmforge.datasets.records import FittedTrack, GatedTrack, Reject
from lhmforge.pipelines.fitting.solver_check import NUM_TRUE_BETAS, make_check_clip
from lhmforge.pipelines.stages.fit import FitStage
from lhmforge.pipelines.stages.gate import GateStage

sys.path.insert(0, str(Path(__file__).parent / "fitting"))
from tracks import NoiseFrames, keypoint_track


@pytest.fixture(scope="module")
def fitted() -> FittedTrack:
    truth = BodyModel.load(free_body_path(), num_betas=NUM_TRUE_BETAS)
    record = keypoint_track(make_check_clip(truth, motion="walk", num_frames=10, seed=0), truth)
    (result,) = FitStage()(record, NoiseFrames())
    assert isinstance(result, FittedTrack)
    return result


def _reason(record: FittedTrack, gate: GateStage, *, flat: bool = False) -> str:
    (result,) = gate(record, NoiseFrames(flat=flat))
    assert isinstance(result, Reject) and result.scores is not None and result.stage == "gate"
    return result.reason


def test_a_good_track_passes_with_scores(fitted: FittedTrack) -> None:
    (gated,) = GateStage()(fitted, NoiseFrames())
    assert isinstance(gated, GatedTrack)
    assert gated.frame_ok.all() and gated.frame_ok.dtype == bool
    scores = gated.scores
    assert scores.matte_iou > 0.8
    assert scores.reprojection < 0.02
    assert scores.duration_s == pytest.approx(10 / 30)
    assert 0 <= scores.view_rad < 0.9  # the walk starts at a yaw of -0.6
    assert 0.8 < scores.coverage <= 1
    assert 0 < scores.jitter < 0.05 and scores.motion > 0.1
    assert scores.sharpness > 100


def test_moved_body_fails_on_the_matte(fitted: FittedTrack) -> None:
    moved = replace(fitted, body=replace(fitted.body, transl=fitted.body.transl + np.float32([0.5, 0, 0])))
    assert _reason(moved, GateStage()) == "low_matte_iou"


def test_empty_mattes_fail(fitted: FittedTrack) -> None:
    blank = encode_png(np.zeros((20, 20), np.uint8))
    matted = fitted.keypointed.matted
    alphas = tuple(replace(alpha, png=blank, window_px=(0, 0, 20, 20)) for alpha in matted.alphas)
    record = replace(fitted, keypointed=replace(fitted.keypointed, matted=replace(matted, alphas=alphas)))
    assert _reason(record, GateStage()) == "low_matte_iou"


def test_each_threshold_has_its_reason(fitted: FittedTrack) -> None:
    assert _reason(fitted, GateStage(min_frames=11)) == "too_few_frames"
    assert _reason(fitted, GateStage(min_height_px=2000.0)) == "too_small"
    assert _reason(fitted, GateStage(min_detection=0.99)) == "low_detection"
    assert _reason(fitted, GateStage(min_coverage=1.01)) == "low_coverage"
    assert _reason(fitted, GateStage(max_reprojection=1e-5)) == "high_reprojection"
    assert _reason(fitted, GateStage(max_jitter=1e-6)) == "jittery"
    assert _reason(fitted, GateStage(max_shape_norm=1e-3)) == "odd_shape"
    assert _reason(fitted, GateStage(), flat=True) == "blurry"


def test_bad_frames_are_marked_and_too_many_reject(fitted: FittedTrack) -> None:
    errors = fitted.reprojection_px.copy()
    errors[:2] = 500
    errors[2] = np.nan
    (gated,) = GateStage()(replace(fitted, reprojection_px=errors), NoiseFrames())
    assert isinstance(gated, GatedTrack)
    assert gated.frame_ok.tolist() == [False] * 3 + [True] * 7
    assert _reason(replace(fitted, reprojection_px=errors), GateStage(min_frames=8)) == "too_few_good_frames"


def test_jitter_raises_the_jitter_score(fitted: FittedTrack) -> None:
    rng = np.random.default_rng(0)
    shaken = replace(fitted.body, transl=fitted.body.transl + rng.normal(0, 0.05, (10, 3)).astype(np.float32))
    gate = GateStage(min_matte_iou=0.0)
    assert _reason(replace(fitted, body=shaken), gate) == "jittery"


def test_another_body_file_is_an_error(fitted: FittedTrack) -> None:
    with pytest.raises(BodyError, match="fitted with body"):
        next(GateStage()(replace(fitted, body_digest="f" * 64), NoiseFrames()))
