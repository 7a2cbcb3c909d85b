"""From a track with keypoints to a fitted body: intrinsics, body, hands, face, in that order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.cameras import default_intrinsics
from lhmforge.datasets.records import FittedTrack, KeypointTrack
from lhmforge.pipelines.backends.roles import BodyStart
from lhmforge.pipelines.fitting.clip_fit import ClipFit, ClipFitConfig, fit_clip
from lhmforge.pipelines.fitting.face import ExpressionMap, FacePose, fit_face, read_expression_map
from lhmforge.pipelines.fitting.hands import FIRST_HAND_POINT, NUM_HAND_POINTS, HandConfig, fit_hand, hand_body
from lhmforge.pipelines.fitting.keypoint_body import KeypointBody
from lhmforge.pipelines.fitting.landmarks import solver_body
from lhmforge.pipelines.fitting.objective import CONFIDENT, FitState, Observations
from lhmforge.pipelines.fitting.observe import ObserveConfig, observe_track
from lhmforge.pipelines.fitting.outline import Mattes, SurfaceSample, sample_surface
from lhmforge.pipelines.fitting.rotations import blend_rotations, log_rotation

_SURFACE_POINTS = 300
_FACE_M = 0.22


@dataclass(frozen=True, slots=True, kw_only=True)
class FittingBody:
    """What fitting needs of one body file; keypoint bodies are built once per landmark set."""

    model: BodyModel
    hands: dict[str, KeypointBody]
    expression: ExpressionMap
    surface: SurfaceSample

    @classmethod
    def load(cls, path: Path) -> FittingBody:
        """Raises `BodyError` where the file is not a body model."""
        model = BodyModel.load(path)
        return cls(
            model=model,
            hands={side: hand_body(model, side) for side in FIRST_HAND_POINT},
            expression=read_expression_map(path, model.num_expression),
            surface=sample_surface(model, _SURFACE_POINTS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackFitConfig:
    """Settings of the parts; `focal_px` is the camera's focal length where known, 0 for 1.2 x the longer side.

    Clips do not tell: over 19 rendered clips and four real views, no other focal length explained the keypoints better.
    """

    focal_px: float = 0.0
    observe: ObserveConfig = field(default_factory=ObserveConfig)
    clip: ClipFitConfig = field(default_factory=ClipFitConfig)
    hands: HandConfig = field(default_factory=HandConfig)
    min_face_px: float = 80.0  # height of a face below which the expression stays neutral


def fit_track(
    record: KeypointTrack, body: FittingBody, config: TrackFitConfig, regressed: BodyStart | None = None
) -> FittedTrack | None:
    """Fits the person of a track; None where no frame shows enough points to place a body."""
    video = record.matted.track.clip.video
    intrinsics = default_intrinsics(video.width_px, video.height_px).astype(np.float64)
    if config.focal_px > 0:
        intrinsics[0, 0] = intrinsics[1, 1] = config.focal_px
    tree = solver_body(body.model, record.keypoints.landmark_set)
    observations = observe_track(record, intrinsics, config.observe)
    if not ((observations.weights_px > CONFIDENT).sum(1) >= 4).any():
        return None
    start = None if regressed is None else _start_from(regressed, tree)
    mattes = Mattes.of_track(record.matted, body.surface) if record.matted.alphas else None
    fit = fit_clip(tree, observations, config.clip, start=start, mattes=mattes)
    return FittedTrack(
        keypointed=record,
        body=_body_params(record, body, tree, observations, fit, config),
        body_digest=body.model.digest,
        intrinsics=observations.intrinsics.astype(np.float32),
        reprojection_px=fit.reprojection_px.astype(np.float32),
        pose_uncertainty_rad=fit.uncertainty_rad.astype(np.float32),
    )


def _start_from(regressed: BodyStart, tree: KeypointBody) -> FitState | None:
    """A regressor's body as the solver's start; frames without one take the turn between their neighbours."""
    valid = np.flatnonzero(regressed.valid)
    if not len(valid):
        return None
    frames = np.arange(len(regressed.valid))
    place = np.interp(frames, valid, np.arange(len(valid)))
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, len(valid) - 1)
    rotations = regressed.rotations[valid].astype(np.float64)
    transl = regressed.transl[valid].astype(np.float64)
    share = place - low
    betas = np.zeros(tree.num_betas)
    count = min(tree.num_betas, len(regressed.betas))
    betas[:count] = regressed.betas[:count]
    return FitState(
        rotations=blend_rotations(rotations[low], rotations[high], share[:, None]),
        transl=transl[low] + share[:, None] * (transl[high] - transl[low]),
        betas=betas,
    )


def _body_params(
    record: KeypointTrack,
    body: FittingBody,
    tree: KeypointBody,
    observations: Observations,
    fit: ClipFit,
    config: TrackFitConfig,
) -> BodyParams:
    state = fit.state
    angles = log_rotation(state.rotations).astype(np.float32)
    rest = BodyParams.rest(len(angles), num_betas=len(state.betas), num_expression=body.model.num_expression)
    face = _face(record, body, tree, observations, state, config)
    left, right = (_hand(side, record, body, tree, observations, state, config) for side in ("left", "right"))
    return replace(
        rest,
        betas=state.betas.astype(np.float32),
        global_orient=angles[:, 0],
        body_pose=angles[:, 1:],
        transl=state.transl.astype(np.float32),
        left_hand_pose=left.astype(np.float32),
        right_hand_pose=right.astype(np.float32),
        expression=face.expression.astype(np.float32),
        jaw_pose=face.jaw.astype(np.float32),
    )


def _face(
    record: KeypointTrack,
    body: FittingBody,
    tree: KeypointBody,
    observations: Observations,
    state: FitState,
    config: TrackFitConfig,
) -> FacePose:
    """Expression and jaw; neutral where the face is so small that its coefficients are noise."""
    head = tree.forward(state.rotations, state.transl, state.betas).joints[:, joint("head")]
    size_px = _FACE_M * observations.intrinsics[0, 0] / np.maximum(head[:, 2], 0.1)
    shapes = record.keypoints.blendshapes.astype(np.float64)
    seen = np.where((size_px >= config.min_face_px)[:, None], shapes, 0.0)
    return fit_face(seen, observations.times_s, body.expression)


def _hand(
    side: str,
    record: KeypointTrack,
    body: FittingBody,
    tree: KeypointBody,
    observations: Observations,
    state: FitState,
    config: TrackFitConfig,
) -> Float64[np.ndarray, "N 15 3"]:
    posed = tree.forward(state.rotations, state.transl, state.betas)
    first = FIRST_HAND_POINT[side]
    points = slice(first, first + NUM_HAND_POINTS)
    wrist = joint(f"{side}_wrist")
    return fit_hand(
        body.hands[side].with_shape(state.betas),
        side,
        points_px=record.keypoints.points_px[:, points].astype(np.float64),
        scores=record.keypoints.scores[:, points].astype(np.float64),
        wrist_world=posed.world[:, wrist],
        wrist_m=posed.joints[:, wrist],
        times_s=observations.times_s,
        intrinsics=observations.intrinsics,
        config=config.hands,
    )
