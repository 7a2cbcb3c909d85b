"""Finger poses from 21 image points per hand, with the wrist held where the body fit put it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from lhmforge.datasets.body.joints import LEFT_HAND_JOINTS, RIGHT_HAND_JOINTS, joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.pipelines.fitting.keypoint_body import (
    Attachment,
    BodyPoint,
    KeypointBody,
    SurfacePoint,
    build_keypoint_body,
)
from lhmforge.pipelines.fitting.objective import FitState, Objective, ObjectiveConfig, Observations
from lhmforge.pipelines.fitting.priors import hand_priors
from lhmforge.pipelines.fitting.rotations import exp_rotation, log_rotation
from lhmforge.pipelines.fitting.solver import SolverConfig, solve

NUM_HAND_POINTS = 21
FIRST_HAND_POINT = {"left": 91, "right": 112}  # in COCO-WholeBody order
_FINGERS = ("thumb", "index", "middle", "ring", "pinky")
_PALM = (0, 1, 5, 9, 13, 17)  # the points that bent fingers leave where they are
_JOINTS = {"left": LEFT_HAND_JOINTS, "right": RIGHT_HAND_JOINTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class HandConfig:
    """When a hand counts as seen, and how firmly its points and its smoothness hold."""

    score_low: float = 0.3
    score_high: float = 0.8
    min_points: int = 8
    min_size_px: float = 12.0
    sigma_m: float = 0.03  # detected points lie 18 to 30 mm off on rendered people, neighbours alike
    turn_sigma_rad: float = 0.03
    max_palm_shift: float = 0.6  # of the hand's size: farther from the body's hand, it is another hand


def relaxed_hand(side: str) -> Float64[np.ndarray, "15 3"]:
    """The pose of a hand that was not seen: slightly curled fingers, axis-angle."""
    return hand_priors(left=side == "left").mean[1:]


def hand_body(model: BodyModel, side: str) -> KeypointBody:
    """The wrist and 15 finger joints of one hand with its 21 points in COCO-WholeBody order."""
    tips = dict(model.extra_vertices)
    points: list[BodyPoint] = [_at(f"{side}_wrist")]
    for finger in _FINGERS:
        points += [_at(f"{side}_{finger}{i}") for i in (1, 2, 3)]
        points.append(SurfacePoint(vertex_ids=(tips[f"{side}_{finger}_tip"],), vertex_weights=(1.0,)))
    return build_keypoint_body(model, points, joints=[joint(f"{side}_wrist"), *(joint(n) for n in _JOINTS[side])])


def fit_hand(
    body: KeypointBody,
    side: str,
    *,
    points_px: Float64[np.ndarray, "N 21 2"],
    scores: Float64[np.ndarray, "N 21"],
    wrist_world: Float64[np.ndarray, "N 3 3"],
    wrist_m: Float64[np.ndarray, "N 3"],
    times_s: Float64[np.ndarray, " N"],
    intrinsics: Float64[np.ndarray, "3 3"],
    config: HandConfig,
) -> Float64[np.ndarray, "N 15 3"]:
    """Axis-angle of the 15 finger joints per frame; `body` is a `hand_body` with the track's shape folded in.

    The seen hand is shifted so that its palm lies on the fitted one: the fingers' pose must not pay for the body's
    error, and a wrist alone is marked too loosely to align by. Frames without a hand follow their neighbours and relax.
    """
    weights = np.clip((scores - config.score_low) / (config.score_high - config.score_low), 0, 1)
    weights = np.where(np.isfinite(points_px).all(-1), weights, 0.0)
    points = np.where(weights[..., None] > 0, points_px, 0.0)
    rotations = np.concatenate(
        [wrist_world[:, None], np.tile(exp_rotation(relaxed_hand(side)), (len(points), 1, 1, 1))], 1
    )
    start = FitState(rotations=rotations, transl=wrist_m - body.joints0[0], betas=np.zeros(0))
    shift = _palm_shift(body, start, points, weights, intrinsics)
    weights = weights * _seen(points, weights, shift, config)[:, None]
    if not weights.any():
        return np.tile(relaxed_hand(side), (len(points), 1, 1))
    depth = np.maximum(wrist_m[:, 2], 0.5)
    observations = Observations(
        times_s=times_s,
        points_px=points + shift[:, None],
        weights_px=weights,
        sigma_px=np.maximum(config.sigma_m * intrinsics[0, 0] / depth, 0.7),
        landmarks_m=np.zeros((*points.shape[:2], 3)),
        weights_m=np.zeros(points.shape[:2]),
        intrinsics=intrinsics,
    )
    settings = ObjectiveConfig(pose_weight=0.7, sigma_turn_rad=config.turn_sigma_rad, frozen=(0, body.num_joints))
    objective = Objective(
        body=body, observations=observations, priors=hand_priors(left=side == "left"), config=settings
    )
    solution = solve(objective, start, SolverConfig(max_iterations=12, relative_gain=1e-3))
    return log_rotation(solution.state.rotations[:, 1:])


def _palm_shift(
    body: KeypointBody, start: FitState, points: np.ndarray, weights: np.ndarray, intrinsics: np.ndarray
) -> Float64[np.ndarray, "N 2"]:
    """From the seen palm to the fitted one, pixels: the weighted mean over the palm's points."""
    palm = list(_PALM)
    posed = body.select(np.array(palm)).forward(start.rotations, start.transl, start.betas).points
    fitted = posed[..., :2] / np.maximum(posed[..., 2:], 0.2) * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]
    share = weights[:, palm, None]
    result: np.ndarray = (share * (fitted - points[:, palm])).sum(1) / np.maximum(share.sum(1), 1e-9)
    return result


def _seen(points: np.ndarray, weights: np.ndarray, shift: np.ndarray, config: HandConfig) -> np.ndarray:
    known = weights > 0
    low = np.where(known[..., None], points, np.inf).min(1)
    high = np.where(known[..., None], points, -np.inf).max(1)
    size = np.where(np.isfinite(high), high - low, 0.0).max(1)
    near = np.linalg.norm(shift, axis=-1) < config.max_palm_shift * np.maximum(size, 1.0)
    result: np.ndarray = (known.sum(1) >= config.min_points) & known[:, 0] & (size >= config.min_size_px) & near
    return result


def _at(name: str) -> Attachment:
    return Attachment(joint=joint(name), frame=joint(name))
