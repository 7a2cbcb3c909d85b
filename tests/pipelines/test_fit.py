"""The fit stage: one shape per track, cameras, hands, starts from a regressor, rejects."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.records import FittedTrack, KeypointTrack, Reject
from lhmforge.pipelines.backends.roles import BodyStart
from lhmforge.pipelines.fitting.hands import FIRST_HAND_POINT, HandConfig, fit_hand, hand_body, relaxed_hand
from lhmforge.pipelines.fitting.rotations import exp_rotation, log_rotation
from lhmforge.pipelines.fitting.solver_check import NUM_TRUE_BETAS, CheckClip, make_check_clip
from lhmforge.pipelines.fitting.track_fit import FittingBody, TrackFitConfig, fit_track
from lhmforge.pipelines.stage import stage_fingerprint
from lhmforge.pipelines.stages.fit import FitStage

sys.path.insert(0, str(Path(__file__).parent / "fitting"))
from tracks import NoiseFrames, keypoint_track, with_points


@pytest.fixture(scope="module")
def clip() -> CheckClip:
    return make_check_clip(
        BodyModel.load(free_body_path(), num_betas=NUM_TRUE_BETAS), motion="walk", num_frames=12, seed=0
    )


@pytest.fixture(scope="module")
def record(clip: CheckClip) -> KeypointTrack:
    return keypoint_track(clip, BodyModel.load(free_body_path(), num_betas=NUM_TRUE_BETAS))


def test_stage_yields_one_fitted_track_with_one_shape(record: KeypointTrack, clip: CheckClip) -> None:
    (fitted,) = FitStage()(record, NoiseFrames())
    assert isinstance(fitted, FittedTrack)
    assert fitted.body.betas.shape == (10,) and fitted.body.num_frames == 12
    assert fitted.intrinsics[0, 2] == 640 and fitted.intrinsics[1, 2] == 360
    assert np.median(fitted.reprojection_px) < 8
    assert (fitted.pose_uncertainty_rad > 0).all()
    np.testing.assert_allclose(fitted.body.left_hand_pose[0], relaxed_hand("left"), atol=1e-6)
    turn = exp_rotation(fitted.body.global_orient.astype(float)).swapaxes(-1, -2) @ clip.rotations[:, 0]
    assert np.degrees(np.linalg.norm(log_rotation(turn), axis=-1)).max() < 45


def test_known_focal_length_is_kept(record: KeypointTrack) -> None:
    fitted = fit_track(record, FittingBody.load(free_body_path()), TrackFitConfig(focal_px=1200.0))
    assert fitted is not None and fitted.intrinsics[0, 0] == 1200.0
    assert abs(float(np.median(fitted.body.transl[:, 2])) - 4.0) < 0.6


def test_regressed_bodies_serve_as_start(record: KeypointTrack, clip: CheckClip) -> None:
    start = BodyStart(
        rotations=clip.rotations.astype(np.float32),
        transl=clip.transl.astype(np.float32),
        betas=clip.betas[:10].astype(np.float32),
        valid=np.arange(12) % 3 != 1,
    )
    fitted = fit_track(record, FittingBody.load(free_body_path()), TrackFitConfig(focal_px=1200.0), start)
    assert fitted is not None
    turn = exp_rotation(fitted.body.global_orient.astype(float)).swapaxes(-1, -2) @ clip.rotations[:, 0]
    assert np.degrees(np.linalg.norm(log_rotation(turn), axis=-1)).max() < 20


def test_a_track_without_points_is_rejected(record: KeypointTrack) -> None:
    empty = with_points(record, record.keypoints.points_px, np.zeros_like(record.keypoints.scores))
    (reject,) = FitStage()(empty, NoiseFrames())
    assert isinstance(reject, Reject) and reject.reason == "no_person" and reject.key == record.key


def test_settings_enter_the_fingerprint() -> None:
    plain = stage_fingerprint(FitStage(), "up")
    assert plain == stage_fingerprint(FitStage(), "up")
    assert plain != stage_fingerprint(FitStage(settings=replace(TrackFitConfig(), focal_px=900.0)), "up")


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_fist_is_found_from_hand_points(side: str) -> None:
    model = BodyModel.load(free_body_path())
    body = hand_body(model, side).with_shape(np.zeros(10))
    curl = np.zeros((15, 3))
    curl[:12, 2] = (-1 if side == "left" else 1) * 1.1
    wrist = exp_rotation(np.array([[np.pi, 0.0, 0.0]]))
    rotations = np.concatenate([wrist[:, None], exp_rotation(curl)[None]], 1)
    place = np.array([[0.2, 0.1, 2.0]])
    points = body.forward(rotations, place - body.joints0[0], np.zeros(0)).points
    intrinsics = np.array([[1500.0, 0, 500], [0, 1500.0, 500], [0, 0, 1]])
    pixels = points[..., :2] / points[..., 2:] * 1500 + 500
    found = fit_hand(
        body,
        side,
        points_px=pixels + np.array([15.0, -10.0]),  # the body fit's wrist is off; the fingers must not pay for it
        scores=np.ones((1, 21)),
        wrist_world=wrist,
        wrist_m=place,
        times_s=np.zeros(1),
        intrinsics=intrinsics,
        config=HandConfig(),
    )
    again = body.forward(
        np.concatenate([wrist[:, None], exp_rotation(found)], 1), place - body.joints0[0], np.zeros(0)
    ).points
    assert np.linalg.norm(again - points, axis=-1).mean() < 0.012
    relaxed = np.concatenate([wrist[:, None], exp_rotation(relaxed_hand(side))[None]], 1)
    before = body.forward(relaxed, place - body.joints0[0], np.zeros(0)).points
    assert np.linalg.norm(before - points, axis=-1).mean() > 0.02
    assert FIRST_HAND_POINT[side] in (91, 112) and joint(f"{side}_wrist") in (20, 21)
