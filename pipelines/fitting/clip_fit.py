"""Fits one person of one clip: starts, a race between hypotheses, and long tracks in overlapping pieces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64

from lhmforge.pipelines.fitting.contacts import ContactConfig, find_contacts
from lhmforge.pipelines.fitting.keypoint_body import KeypointBody
from lhmforge.pipelines.fitting.landmarks import point_index
from lhmforge.pipelines.fitting.objective import (
    CONFIDENT,
    NO_CONTACTS,
    Contacts,
    FitState,
    Objective,
    ObjectiveConfig,
    Observations,
)
from lhmforge.pipelines.fitting.observe import set_noise
from lhmforge.pipelines.fitting.outline import Mattes, OutlineConfig, build_outline
from lhmforge.pipelines.fitting.priors import body_priors
from lhmforge.pipelines.fitting.rotations import blend_rotations, exp_rotation
from lhmforge.pipelines.fitting.solver import SolverConfig, rotation_uncertainty, solve
from lhmforge.pipelines.fitting.start import fit_translation, has_landmarks, landmark_start, rest_rotations

# A body that stands upright before the camera, facing it: y up becomes y down, z front becomes towards the camera.
_FACING_CAMERA = np.diag([1.0, -1.0, -1.0])
_BLIND_KERNEL = 288.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFitConfig:
    """Noise levels, piece lengths and when to doubt a result."""

    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    contacts: ContactConfig = field(default_factory=ContactConfig)
    outline: OutlineConfig = field(default_factory=OutlineConfig)
    refining_gain: float = 1e-3  # `relative_gain` of the second solve, with contacts and outline
    sigma_m: float = 0.018
    landmark_weight: float = 0.1  # of the 3D landmarks while solving; at full weight they always serve as the start
    race_frames: int = 16
    doubt_sigma: float = 2.5  # median image residual (in standard deviations) beyond which other starts are tried
    piece_frames: int = 300
    overlap_frames: int = 20
    shape_frames: int = 120  # of a long track, spread evenly, that its shape is taken from


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFit:
    """A fitted clip; reprojection is the mean over the seen points of a frame, NaN where none was seen."""

    state: FitState
    reprojection_px: Float64[np.ndarray, " N"]
    uncertainty_rad: Float64[np.ndarray, " N"]
    cost_per_frame: float


def fit_clip(
    body: KeypointBody,
    observations: Observations,
    config: ClipFitConfig,
    *,
    start: FitState | None = None,
    mattes: Mattes | None = None,
) -> ClipFit:
    """One shape and a pose per frame for `observations`; `start` replaces the start from landmarks.

    `mattes` of the same frames refine limbs and shape by the person's outline.
    """
    num_frames = len(observations.times_s)
    if num_frames <= config.piece_frames:
        return _fit_piece(body, observations, config, start, mattes)
    chosen = np.unique(np.linspace(0, num_frames - 1, config.shape_frames).round().astype(np.int64))
    sketch = _fit_piece(
        body,
        observations.select(chosen),
        config,
        None if start is None else select_state(start, chosen),
        None if mattes is None else mattes.select(chosen),
    )
    betas = sketch.state.betas
    pieces = []
    spans = _pieces(num_frames, config)
    for first, end in spans:
        frames = np.arange(first, end)
        piece_start = None if start is None else replace(select_state(start, frames), betas=np.zeros(0))
        piece_mattes = None if mattes is None else mattes.select(frames).with_shape(betas)
        pieces.append(
            _fit_piece(body.with_shape(betas), observations.select(frames), config, piece_start, piece_mattes)
        )
    return _join(pieces, spans, betas)


def upright_start(body: KeypointBody, observations: Observations, yaw: Float64[np.ndarray, " N"]) -> FitState:
    """Standing with hanging arms, turned by `yaw` (radians about the vertical, 0 faces the camera)."""
    rotations = rest_rotations(len(yaw))
    rotations[:, 0] = _FACING_CAMERA @ exp_rotation(np.stack([np.zeros_like(yaw), yaw, np.zeros_like(yaw)], -1))
    betas = np.zeros(body.num_betas)
    return FitState(rotations=rotations, transl=fit_translation(body, observations, rotations, betas), betas=betas)


def yaw_hypotheses(body: KeypointBody, observations: Observations) -> list[Float64[np.ndarray, " N"]]:
    """Guesses of the body's yaw from 2D points: four constant ones, and the apparent width of the shoulders.

    The signed width of the shoulder line against the length of the trunk gives the cosine; the side to which the
    nose points gives the sign of the sine.
    """
    n = len(observations.times_s)
    constant = [np.full(n, turn) for turn in (0.0, np.pi, np.pi / 2, -np.pi / 2)]
    names = ("left_shoulder", "right_shoulder", "left_hip", "right_hip", "nose")
    points = {name: observations.points_px[:, point_index(name)] for name in names}
    seen = np.stack([observations.weights_px[:, point_index(name)] > 0.1 for name in names]).all(0)
    if not seen.any():
        return constant
    middle = (points["left_shoulder"] + points["right_shoulder"]) / 2
    trunk = np.linalg.norm(middle - (points["left_hip"] + points["right_hip"]) / 2, axis=-1)
    rest = {name: body.points0[point_index(name)] for name in names}
    rest_width = rest["left_shoulder"][0] - rest["right_shoulder"][0]
    rest_trunk = np.linalg.norm(
        (rest["left_shoulder"] + rest["right_shoulder"] - rest["left_hip"] - rest["right_hip"]) / 2
    )
    width = (points["left_shoulder"] - points["right_shoulder"])[:, 0] / np.maximum(trunk, 1.0)
    angle = np.arccos(np.clip(width * rest_trunk / rest_width, -1, 1))
    side = np.sign((points["nose"] - middle)[:, 0])
    times = observations.times_s
    by_nose = np.interp(times, times[seen], np.unwrap((angle * np.where(side == 0, 1, side))[seen]))
    steady = np.interp(times, times[seen], angle[seen])
    return [*constant, by_nose, steady, -steady]


def _fit_piece(
    body: KeypointBody,
    observations: Observations,
    config: ClipFitConfig,
    given: FitState | None,
    mattes: Mattes | None,
) -> ClipFit:
    solving = replace(observations, weights_m=observations.weights_m * config.landmark_weight)
    if given is not None:
        best = given
    elif has_landmarks(observations):
        best = landmark_start(body, observations)
    else:
        best = _race(body, solving, config, _blind_starts(body, solving))
    solving = set_noise(solving, best.transl, config.sigma_m)
    state = _solve(body, solving, config, best)
    if _median_residual(body, solving, config, state) > config.doubt_sigma:
        state = _doubt(body, solving, config, state)
    contacts = find_contacts(solving, state.transl[:, 2], config.contacts)
    objective = _objective(body, solving, config, contacts)
    if mattes is not None and config.outline.weight > 0:
        outline = build_outline(
            mattes,
            solving.weights_px,
            solving.intrinsics,
            state.rotations,
            state.transl,
            state.betas,
            config.outline,
        )
        objective = replace(objective, outline=outline)
    if contacts.num_stays or objective.outline is not None:
        refining = replace(config.solver, start_kernel=0.0, relative_gain=config.refining_gain)
        state = solve(objective, state, refining).state
    kernel = config.solver.kernel
    return ClipFit(
        state=state,
        reprojection_px=reprojection_px(objective, state),
        uncertainty_rad=rotation_uncertainty(objective, state, kernel),
        cost_per_frame=objective.cost(state, kernel) / len(state.transl),
    )


def reprojection_px(objective: Objective, state: FitState) -> Float64[np.ndarray, " N"]:
    """Weighted mean distance of seen and fitted points per frame; NaN where a frame has no seen point."""
    posed = objective.body.forward(state.rotations, state.transl, state.betas)
    seen = objective.observations
    distance = np.linalg.norm(objective.project(posed.points) - seen.points_px, axis=-1)
    weights = np.where(seen.weights_px > CONFIDENT, seen.weights_px, 0.0)
    total = weights.sum(1)
    result: np.ndarray = np.where(total > 0, (weights * distance).sum(1) / np.maximum(total, 1e-9), np.nan)
    return result


def _objective(
    body: KeypointBody, observations: Observations, config: ClipFitConfig, contacts: Contacts = NO_CONTACTS
) -> Objective:
    return Objective(
        body=body, observations=observations, priors=body_priors(), config=config.objective, contacts=contacts
    )


def _solve(
    body: KeypointBody, observations: Observations, config: ClipFitConfig, start: FitState, start_kernel: float = 0.0
) -> FitState:
    solver = replace(config.solver, start_kernel=start_kernel) if start_kernel else config.solver
    return solve(_objective(body, observations, config), start, solver).state


def _blind_starts(body: KeypointBody, observations: Observations) -> list[FitState]:
    return [upright_start(body, observations, yaw) for yaw in yaw_hypotheses(body, observations)]


def _race(
    body: KeypointBody, observations: Observations, config: ClipFitConfig, starts: Sequence[FitState]
) -> FitState:
    """The start whose fit to a few frames, spread over the clip, costs least."""
    num_frames = len(observations.times_s)
    chosen = np.unique(np.linspace(0, num_frames - 1, config.race_frames).round().astype(np.int64))
    few = observations.select(chosen)
    costs = []
    for start in starts:
        trial = select_state(start, chosen)
        noisy = set_noise(few, trial.transl, config.sigma_m)
        state = _solve(body, noisy, config, trial, _BLIND_KERNEL)
        costs.append(_objective(body, noisy, config).cost(state, config.solver.kernel))
    return starts[int(np.argmin(costs))]


def _doubt(body: KeypointBody, observations: Observations, config: ClipFitConfig, state: FitState) -> FitState:
    """Tries the best blind start from scratch; keeps whichever costs less over the whole clip."""
    start = _race(body, observations, config, _blind_starts(body, observations))
    other = _solve(body, observations, config, start, _BLIND_KERNEL)
    objective, kernel = _objective(body, observations, config), config.solver.kernel
    return other if objective.cost(other, kernel) < objective.cost(state, kernel) else state


def _median_residual(body: KeypointBody, observations: Observations, config: ClipFitConfig, state: FitState) -> float:
    error = reprojection_px(_objective(body, observations, config), state) / observations.sigma_px
    return float(np.nanmedian(error)) if np.isfinite(error).any() else 0.0


def select_state(state: FitState, frames: np.ndarray) -> FitState:
    """The frames `frames` (int, [M]) of a state."""
    return replace(state, rotations=state.rotations[frames], transl=state.transl[frames])


def _pieces(num_frames: int, config: ClipFitConfig) -> list[tuple[int, int]]:
    step = config.piece_frames - config.overlap_frames
    count = int(np.ceil((num_frames - config.overlap_frames) / step))
    edges = np.linspace(0, num_frames - config.overlap_frames, count + 1).round().astype(int)
    return [(int(a), int(b) + config.overlap_frames) for a, b in itertools.pairwise(edges)]


def _join(pieces: Sequence[ClipFit], spans: Sequence[tuple[int, int]], betas: Float64[np.ndarray, " B"]) -> ClipFit:
    """Blends neighbouring pieces over their common frames."""
    first = pieces[0]
    rotations, transl = first.state.rotations, first.state.transl
    reprojection, uncertainty = first.reprojection_px, first.uncertainty_rad
    for piece, (begin, _) in zip(pieces[1:], spans[1:], strict=True):
        common = len(transl) - begin
        share = (np.arange(common) + 0.5) / common
        new = piece.state
        mixed = blend_rotations(rotations[begin:], new.rotations[:common], share[:, None])
        rotations = np.concatenate([rotations[:begin], mixed, new.rotations[common:]])
        moved = (1 - share[:, None]) * transl[begin:] + share[:, None] * new.transl[:common]
        transl = np.concatenate([transl[:begin], moved, new.transl[common:]])
        reprojection = np.concatenate([reprojection, piece.reprojection_px[common:]])
        uncertainty = np.concatenate([uncertainty, piece.uncertainty_rad[common:]])
    cost = float(np.mean([piece.cost_per_frame for piece in pieces]))
    state = FitState(rotations=rotations, transl=transl, betas=betas)
    return ClipFit(state=state, reprojection_px=reprojection, uncertainty_rad=uncertainty, cost_per_frame=cost)
