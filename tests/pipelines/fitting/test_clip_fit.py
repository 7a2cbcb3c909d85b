"""Fits of clips with known truth: accuracy, short and long clips, gaps, cut-off bodies, no 3D landmarks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lhmforge.datasets.body.model import BodyModel
from lhmforge.pipelines.fitting.clip_fit import ClipFit, ClipFitConfig, fit_clip, yaw_hypotheses
from lhmforge.pipelines.fitting.landmarks import POINT_NAMES, solver_body
from lhmforge.pipelines.fitting.objective import ObjectiveConfig, Observations
from lhmforge.pipelines.fitting.observe import repair_swaps
from lhmforge.pipelines.fitting.rotations import log_rotation
from lhmforge.pipelines.fitting.solver_check import CheckClip, FitErrors, fit_errors, fitted_joints, make_check_clip

CONFIG = ClipFitConfig(sigma_m=0.01, landmark_weight=1.0, objective=ObjectiveConfig(sigma_landmark_m=0.04))


def _errors(fit: ClipFit, clip: CheckClip, model: BodyModel) -> FitErrors:
    return fit_errors(fitted_joints(model, fit.state.rotations, fit.state.transl, fit.state.betas), clip.joints)


def _root_error_deg(fit: ClipFit, clip: CheckClip) -> np.ndarray:
    turn = fit.state.rotations[:, 0].swapaxes(-1, -2) @ clip.rotations[:, 0]
    return np.degrees(np.linalg.norm(log_rotation(turn), axis=-1))


def test_reaches_the_accuracy_that_its_noise_allows(free_model: BodyModel, true_model: BodyModel) -> None:
    body = solver_body(free_model, "none")
    errors = []
    for motion in ("walk", "dance"):
        clip = make_check_clip(true_model, motion=motion, num_frames=60, seed=1)
        fit = fit_clip(body, clip.observations, CONFIG)
        errors.append(_errors(fit, clip, true_model))
        assert fit.state.betas.shape == (10,)
        assert np.nanmedian(fit.reprojection_px) < 6
        assert 0.02 < fit.uncertainty_rad.mean() < 0.6
    assert np.mean([error.pa_mpjpe_mm for error in errors]) < 17.5
    assert np.mean([error.mpjpe_mm for error in errors]) < 26


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_short_clips(free_model: BodyModel, true_model: BodyModel, num_frames: int) -> None:
    clip = make_check_clip(true_model, motion="walk", num_frames=num_frames, seed=0)
    fit = fit_clip(solver_body(free_model, "none"), clip.observations, CONFIG)
    assert _errors(fit, clip, true_model).pa_mpjpe_mm < 40
    assert _root_error_deg(fit, clip).max() < 30


def test_gaps_in_time_and_frames_without_points(free_model: BodyModel, true_model: BodyModel) -> None:
    clip = make_check_clip(true_model, motion="walk", num_frames=40, seed=0)
    kept = np.concatenate([np.arange(0, 12), np.arange(22, 40)])
    observations = clip.observations.select(kept)
    weights = observations.weights_px.copy()
    weights[5] = 0
    fit = fit_clip(solver_body(free_model, "none"), replace(observations, weights_px=weights), CONFIG)
    joints = fitted_joints(true_model, fit.state.rotations, fit.state.transl, fit.state.betas)
    assert fit_errors(joints, clip.joints[kept]).pa_mpjpe_mm < 30
    assert np.isnan(fit.reprojection_px[5]) and np.isfinite(np.delete(fit.reprojection_px, 5)).all()
    assert np.isfinite(joints).all()


def test_long_clips_are_fitted_in_pieces_with_one_shape(free_model: BodyModel, true_model: BodyModel) -> None:
    clip = make_check_clip(true_model, motion="walk", num_frames=130, seed=0)
    config = replace(CONFIG, piece_frames=60, overlap_frames=10, shape_frames=30)
    fit = fit_clip(solver_body(free_model, "none"), clip.observations, config)
    assert len(fit.state.transl) == len(fit.uncertainty_rad) == len(fit.reprojection_px) == 130
    assert fit.state.betas.shape == (10,)
    errors = _errors(fit, clip, true_model)
    assert errors.pa_mpjpe_mm < 25 and errors.acceleration_mm < 12


def test_a_body_cut_off_below_the_hips_stays_plausible(free_model: BodyModel, true_model: BodyModel) -> None:
    clip = make_check_clip(true_model, motion="walk", num_frames=20, seed=2)
    low = np.array([any(part in name for part in ("knee", "ankle", "toe", "heel")) for name in POINT_NAMES])
    seen = clip.observations
    cut = replace(seen, weights_px=seen.weights_px * ~low, weights_m=seen.weights_m * ~low)
    fit = fit_clip(solver_body(free_model, "none"), cut, CONFIG)
    joints = fitted_joints(true_model, fit.state.rotations, fit.state.transl, fit.state.betas)
    upper = [0, 3, 6, 9, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]
    aligned = joints[:, upper] - joints[:, :1] - (clip.joints[:, upper] - clip.joints[:, :1])
    assert np.linalg.norm(aligned, axis=-1).mean() < 0.06
    angles = np.linalg.norm(log_rotation(fit.state.rotations[:, [1, 2, 4, 5]]), axis=-1)
    assert angles.max() < np.deg2rad(90)


@pytest.mark.parametrize("seed", [0, 3])
def test_without_3d_landmarks_the_right_side_is_found(free_model: BodyModel, true_model: BodyModel, seed: int) -> None:
    clip = make_check_clip(true_model, motion="walk", num_frames=30, seed=seed)
    blind = replace(clip.observations, weights_m=np.zeros_like(clip.observations.weights_m))
    fit = fit_clip(solver_body(free_model, "none"), blind, CONFIG)
    assert np.median(_root_error_deg(fit, clip)) < 40
    assert _errors(fit, clip, true_model).pa_mpjpe_mm < 95


def test_yaw_is_guessed_from_the_width_of_the_shoulders(free_model: BodyModel, true_model: BodyModel) -> None:
    clip = make_check_clip(true_model, motion="walk", num_frames=30, seed=0)
    by_nose = yaw_hypotheses(solver_body(free_model, "none"), clip.observations)[4]
    assert by_nose[0] < -0.2 and by_nose[-1] > 0.4  # the walk turns from -0.6 to 0.9


def test_same_input_gives_the_same_bits(free_model: BodyModel, true_model: BodyModel) -> None:
    clip = make_check_clip(true_model, motion="dance", num_frames=10, seed=0)
    body = solver_body(free_model, "none")
    first, second = (fit_clip(body, clip.observations, CONFIG) for _ in range(2))
    np.testing.assert_array_equal(first.state.rotations, second.state.rotations)
    np.testing.assert_array_equal(first.uncertainty_rad, second.uncertainty_rad)


def test_moving_the_principal_point_moves_nothing(free_model: BodyModel, true_model: BodyModel) -> None:
    clip = make_check_clip(true_model, motion="walk", num_frames=8, seed=0)
    seen = clip.observations
    intrinsics = seen.intrinsics.copy()
    intrinsics[:2, 2] += [37.0, -21.0]
    shifted = replace(seen, points_px=seen.points_px + np.array([37.0, -21.0]), intrinsics=intrinsics)
    body = solver_body(free_model, "none")
    plain, moved = fit_clip(body, seen, CONFIG), fit_clip(body, shifted, CONFIG)
    np.testing.assert_allclose(moved.state.rotations, plain.state.rotations, atol=1e-5)
    np.testing.assert_allclose(moved.state.transl, plain.state.transl, atol=1e-5)


def test_swapped_sides_are_exchanged_back(true_model: BodyModel) -> None:
    seen = make_check_clip(true_model, motion="walk", num_frames=30, seed=0).observations
    mirror = np.array(
        [
            POINT_NAMES.index(n.replace("left_", "?").replace("right_", "left_").replace("?", "right_"))
            for n in POINT_NAMES
        ]
    )
    broken = _exchange(seen, [9, 10, 20], mirror)
    repaired = repair_swaps(broken)
    np.testing.assert_array_equal(repaired.points_px, seen.points_px)
    untouched = repair_swaps(seen)
    np.testing.assert_array_equal(untouched.points_px, seen.points_px)


def _exchange(seen: Observations, frames: list[int], mirror: np.ndarray) -> Observations:
    points, weights = seen.points_px.copy(), seen.weights_px.copy()
    points[frames], weights[frames] = points[frames][:, mirror], weights[frames][:, mirror]
    return replace(seen, points_px=points, weights_px=weights)
