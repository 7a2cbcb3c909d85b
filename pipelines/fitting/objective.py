"""What a fit minimises over a clip: keypoint distances, joint ranges, smoothness in time and the size of the shape.

Image and 3D distances pass through the Geman-McClure function `k e / (k + e)` of the squared distance `e` in standard
deviations; a large `k` forgives nothing, a small one ignores outliers. Smoothness is a white-noise-acceleration model
in continuous time, so uneven frame times weigh as they should.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, Int64

from lhmforge.pipelines.fitting.keypoint_body import KeypointBody, PosedPoints
from lhmforge.pipelines.fitting.normal_equations import NormalEquations
from lhmforge.pipelines.fitting.outline import Outline
from lhmforge.pipelines.fitting.priors import JointPriors
from lhmforge.pipelines.fitting.rotations import exp_rotation, log_rotation, right_jacobian_inverse

CONFIDENT = 0.1  # weight above which a point counts as seen; lighter ones only guide
_NEAREST_DEPTH_M = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class FitState:
    """The unknowns of a clip: local joint rotations, root translation (camera frame, metres), one shape.

    `landmark_scale` is the size of the 3D landmarks relative to the person; `anchors` are the places of `Contacts`.
    """

    rotations: Float64[np.ndarray, "N J 3 3"]
    transl: Float64[np.ndarray, "N 3"]
    betas: Float64[np.ndarray, " B"]
    landmark_scale: float = 1.0
    anchors: Float64[np.ndarray, "S 3"] = field(default_factory=lambda: np.zeros((0, 3)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """What was seen of the body's `K` points in `N` frames; a weight of 0 means "not seen"."""

    times_s: Float64[np.ndarray, " N"]
    points_px: Float64[np.ndarray, "N K 2"]
    weights_px: Float64[np.ndarray, "N K"]
    sigma_px: Float64[np.ndarray, " N"]
    landmarks_m: Float64[np.ndarray, "N K 3"]  # up to a translation and a common scale
    weights_m: Float64[np.ndarray, "N K"]
    intrinsics: Float64[np.ndarray, "3 3"]

    def select(self, frames: np.ndarray) -> Observations:
        """The frames `frames` (int, [M])."""
        return Observations(
            times_s=self.times_s[frames],
            points_px=self.points_px[frames],
            weights_px=self.weights_px[frames],
            sigma_px=self.sigma_px[frames],
            landmarks_m=self.landmarks_m[frames],
            weights_m=self.weights_m[frames],
            intrinsics=self.intrinsics,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contacts:
    """Points that stand still: entry (n, c) of `stays` numbers the stay of `points[c]` in frame n; -1: it moves."""

    points: Int64[np.ndarray, " C"]
    stays: Int64[np.ndarray, "N C"]
    sigma_m: float

    @property
    def num_stays(self) -> int:
        return int(self.stays.max(initial=-1)) + 1


NO_CONTACTS = Contacts(points=np.zeros(0, np.int64), stays=np.zeros((0, 0), np.int64), sigma_m=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """Standard deviations and weights of the terms; smoothness is stated as change per frame at 30 frames/s."""

    sigma_landmark_m: float = 0.08
    limit_weight: float = 10.0
    pose_weight: float = 0.7
    shape_weight: float = 3.0
    sigma_turn_rad: float = 0.026
    sigma_move_m: float = 0.01
    smoothness: float = 1.2
    frozen: tuple[int, ...] = ()  # blocks that stay as they are: joint positions in the tree, J for the translation
    landmark_scale_prior: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The cost of a state and its Gauss-Newton model."""

    body: KeypointBody
    observations: Observations
    priors: JointPriors
    config: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    contacts: Contacts = NO_CONTACTS
    outline: Outline | None = None

    def cost(self, state: FitState, kernel: float) -> float:
        """The total cost with Geman-McClure constant `kernel` (squared standard deviations)."""
        posed = self.body.forward(state.rotations, state.transl, state.betas)
        image, landmarks = self._image_residuals(posed), self._landmark_residuals(posed, state)
        seen = self.observations
        total = (seen.weights_px * _robust(image, kernel)).sum() + (seen.weights_m * _robust(landmarks, kernel)).sum()
        angles = log_rotation(state.rotations[:, 1:])
        over, pull = self._prior_residuals(angles)
        total += (over**2).sum() + (pull**2).sum() + self.config.shape_weight**2 * (state.betas**2).sum()
        if len(self.contacts.points):
            total += _robust(self._contact_residuals(posed, state), kernel).sum()
        if self.outline is not None:
            total += self._outline_cost(self.outline, state, kernel)
        if len(state.transl) > 2:
            total += (self._accelerations(self._steps(state)) ** 2).sum()
        return float(total)

    def linearise(self, state: FitState, kernel: float) -> NormalEquations:
        """Gradient (half of it) and Gauss-Newton matrix of `cost` at `state`."""
        posed = self.body.forward(state.rotations, state.transl, state.betas)
        jacobian = self.body.jacobian(posed)
        n, j1 = len(state.transl), self.body.num_joints + 1
        rows, residuals = self._data_rows(posed, state, jacobian, kernel)
        transposed = rows.transpose(0, 2, 1)
        hessian, gradient = transposed @ rows, (transposed @ residuals[..., None])[..., 0]
        if self.outline is not None:
            self._add_outline(self.outline, state, kernel, hessian, gradient)
        d = 3 * j1
        frames, frame_gradient = hessian[:, :d, :d].copy(), gradient[:, :d].copy()
        self._add_priors(state, frames, frame_gradient)
        next1, next2 = np.zeros((max(n - 1, 0), j1, 3, 3)), np.zeros((max(n - 2, 0), j1, 3, 3))
        if n > 2:
            self._add_smoothness(state, frames, next1, next2, frame_gradient)
        weight = self.config.shape_weight**2
        equations = NormalEquations(
            frames=frames,
            next1=next1,
            next2=next2,
            shape_coupling=hessian[:, :d, d:].copy(),
            shape=hessian[:, d:, d:].sum(0) + weight * np.eye(len(state.betas)),
            gradient=frame_gradient,
            shape_gradient=gradient[:, d:].sum(0) + weight * state.betas,
        )
        _freeze(equations, self.config.frozen)
        return equations

    def settle(self, state: FitState, kernel: float) -> FitState:
        """The state with the landmark scale and the anchors that fit it best."""
        scale = self.best_landmark_scale(state, kernel)
        return replace(state, landmark_scale=scale, anchors=self.best_anchors(state))

    def best_landmark_scale(self, state: FitState, kernel: float) -> float:
        """The scale of the 3D landmarks that fits `state` best (closed form, pulled towards 1)."""
        weights = self.observations.weights_m
        if not weights.any():
            return state.landmark_scale
        posed = self.body.forward(state.rotations, state.transl, state.betas)
        squared = (self._landmark_residuals(posed, state) ** 2).sum(-1)
        robust = (weights * (kernel / (kernel + squared)) ** 2)[..., None]
        model = _centred(posed.points, weights)
        seen = _centred(self.observations.landmarks_m, weights)
        power = float((robust * model * model).sum())
        pull = self.config.landmark_scale_prior * power
        return (float((robust * model * seen).sum()) + pull) / max(power + pull, 1e-12)

    def project(self, points: Float64[np.ndarray, "N K 3"]) -> Float64[np.ndarray, "N K 2"]:
        """Pixels of camera-frame points; depth is clamped in front of the camera."""
        intrinsics = self.observations.intrinsics
        depth = np.maximum(points[..., 2:], _NEAREST_DEPTH_M)
        result: np.ndarray = points[..., :2] / depth * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]
        return result

    def _image_residuals(self, posed: PosedPoints) -> Float64[np.ndarray, "N K 2"]:
        difference = self.project(posed.points) - self.observations.points_px
        result: np.ndarray = difference / self.observations.sigma_px[:, None, None]
        return result

    def _landmark_residuals(self, posed: PosedPoints, state: FitState) -> Float64[np.ndarray, "N K 3"]:
        weights = self.observations.weights_m
        model = _centred(posed.points, weights) * state.landmark_scale
        result: np.ndarray = (model - _centred(self.observations.landmarks_m, weights)) / self.config.sigma_landmark_m
        return result

    def _data_rows(
        self, posed: PosedPoints, state: FitState, jacobian: Float64[np.ndarray, "N K 3 D"], kernel: float
    ) -> tuple[Float64[np.ndarray, "N M D"], Float64[np.ndarray, "N M"]]:
        """Weighted rows of the data terms' Jacobian and their weighted residuals."""
        seen = self.observations
        n, k, _, d = jacobian.shape
        depth = np.maximum(posed.points[..., 2], _NEAREST_DEPTH_M)
        residual = self._image_residuals(posed)
        weight = np.sqrt(seen.weights_px) * _root_weight(residual, kernel)
        rows = np.empty((n, 2, k, d))
        for axis in range(2):
            factor = weight * seen.intrinsics[axis, axis] / (depth * seen.sigma_px[:, None])
            slope = posed.points[..., axis] / depth
            rows[:, axis] = factor[..., None] * jacobian[:, :, axis]
            rows[:, axis] -= (factor * slope)[..., None] * jacobian[:, :, 2]
        parts = [rows.reshape(n, 2 * k, d)]
        residuals = [(residual * weight[..., None]).transpose(0, 2, 1).reshape(n, 2 * k)]
        if seen.weights_m.any():
            residual3 = self._landmark_residuals(posed, state)
            weight3 = np.sqrt(seen.weights_m) * _root_weight(residual3, kernel)
            scale = state.landmark_scale / self.config.sigma_landmark_m
            rows3 = _centred(jacobian.reshape(n, k, 3 * d), seen.weights_m).reshape(n, k, 3, d)
            rows3 *= (scale * weight3)[..., None, None]
            parts.append(rows3.reshape(n, 3 * k, d))
            residuals.append((residual3 * weight3[..., None]).reshape(n, 3 * k))
        if len(self.contacts.points):
            held = self._contact_residuals(posed, state)
            firm = _root_weight(held, kernel) * (self.contacts.stays >= 0)
            rows_held = jacobian[:, self.contacts.points] * (firm / self.contacts.sigma_m)[..., None, None]
            parts.append(rows_held.reshape(n, -1, d))
            residuals.append((held * firm[..., None]).reshape(n, -1))
        return np.concatenate(parts, 1), np.concatenate(residuals, 1)

    def _contact_residuals(self, posed: PosedPoints, state: FitState) -> Float64[np.ndarray, "N C 3"]:
        """Distances of standing points from their anchors, in standard deviations; 0 for points that move."""
        stays = self.contacts.stays
        if not self.contacts.num_stays:
            return np.zeros((*stays.shape, 3))
        apart = posed.points[:, self.contacts.points] - state.anchors[stays]
        result: np.ndarray = np.where(stays[..., None] >= 0, apart / self.contacts.sigma_m, 0.0)
        return result

    def _outline_cost(self, outline: Outline, state: FitState, kernel: float) -> float:
        posed = outline.sample.body.forward(state.rotations[outline.frames], state.transl[outline.frames], state.betas)
        distance, _ = outline.distances(self.project(posed.points))
        residual = (distance - outline.goal_px[:, None]) / outline.sigma_px[:, None]
        return float((outline.weights * _robust(residual[..., None], kernel)).sum())

    def _add_outline(
        self, outline: Outline, state: FitState, kernel: float, hessian: np.ndarray, gradient: np.ndarray
    ) -> None:
        body, frames = outline.sample.body, outline.frames
        posed = body.forward(state.rotations[frames], state.transl[frames], state.betas)
        jacobian = body.jacobian(posed)
        distance, slope = outline.distances(self.project(posed.points))
        residual = (distance - outline.goal_px[:, None]) / outline.sigma_px[:, None]
        weight = np.sqrt(outline.weights) * _root_weight(residual[..., None], kernel)
        depth = np.maximum(posed.points[..., 2], _NEAREST_DEPTH_M)
        focal = self.observations.intrinsics[[0, 1], [0, 1]]
        factor = slope * focal * (weight / (depth * outline.sigma_px[:, None]))[..., None]
        along = -(factor * posed.points[..., :2] / depth[..., None]).sum(-1)
        rows = np.einsum("nkc,nkcd->nkd", np.concatenate([factor, along[..., None]], -1), jacobian, optimize=False)
        transposed = rows.transpose(0, 2, 1)
        hessian[frames] += transposed @ rows
        gradient[frames] += (transposed @ (residual * weight)[..., None])[..., 0]

    def best_anchors(self, state: FitState) -> Float64[np.ndarray, "S 3"]:
        """The mean place of every stay."""
        contacts = self.contacts
        if not contacts.num_stays:
            return np.zeros((0, 3))
        points = self.body.forward(state.rotations, state.transl, state.betas).points[:, contacts.points]
        held = contacts.stays >= 0
        members, places = contacts.stays[held], points[held]
        count = np.bincount(members, minlength=contacts.num_stays)
        sums = [np.bincount(members, places[:, axis], minlength=contacts.num_stays) for axis in range(3)]
        result: np.ndarray = np.stack(sums, 1) / np.maximum(count, 1)[:, None]
        return result

    def _prior_residuals(
        self, angles: Float64[np.ndarray, "N J1 3"]
    ) -> tuple[Float64[np.ndarray, "N J1 3"], Float64[np.ndarray, "N J1 3"]]:
        """Range violations and distances from the middle pose, of all joints but the root, weighted."""
        over = np.maximum(angles - self.priors.high[1:], 0) - np.maximum(self.priors.low[1:] - angles, 0)
        pull = (angles - self.priors.mean[1:]) / self.priors.sigma[1:]
        return self.config.limit_weight * over, self.config.pose_weight * pull

    def _add_priors(self, state: FitState, frames: np.ndarray, gradient: np.ndarray) -> None:
        angles = log_rotation(state.rotations[:, 1:])
        over, pull = self._prior_residuals(angles)
        slope_over = self.config.limit_weight * (over != 0)
        slope_pull = self.config.pose_weight / self.priors.sigma[1:]
        inverse = right_jacobian_inverse(angles)
        transposed = inverse.swapaxes(-1, -2)
        block = transposed @ ((slope_over**2 + slope_pull**2)[..., None] * inverse)
        slope = (transposed @ (slope_over * over + slope_pull * pull)[..., None])[..., 0]
        _add_blocks(frames, block, first=1)
        gradient[:, 3:-3] += slope.reshape(len(gradient), -1)

    def _steps(self, state: FitState) -> Float64[np.ndarray, "N1 J1 3"]:
        """Rotation and translation increments from each frame to the next, in standard deviations per frame."""
        turn = log_rotation(state.rotations[:-1].swapaxes(-1, -2) @ state.rotations[1:])
        move = np.diff(state.transl, axis=0)[:, None]
        return np.concatenate([turn, move], 1)

    def _time_weights(self) -> tuple[Float64[np.ndarray, " N1"], Float64[np.ndarray, "N2 1 1"]]:
        """1 / step length, and 1 / standard deviation of a velocity change, both in units of 1/30 s."""
        steps = np.maximum(np.diff(self.observations.times_s) * 30.0, 1e-3)
        return 1 / steps, self.config.smoothness / np.sqrt((steps[:-1] + steps[1:]) / 2)[:, None, None]

    def _block_weights(self) -> Float64[np.ndarray, "J1 1"]:
        weights = np.full((self.body.num_joints + 1, 1), 1 / self.config.sigma_turn_rad)
        weights[-1] = 1 / self.config.sigma_move_m
        return weights

    def _accelerations(self, steps: Float64[np.ndarray, "N1 J1 3"]) -> Float64[np.ndarray, "N2 J1 3"]:
        inverse_step, weight = self._time_weights()
        velocity = steps * inverse_step[:, None, None]
        result: np.ndarray = (velocity[1:] - velocity[:-1]) * weight * self._block_weights()
        return result

    def _add_smoothness(
        self, state: FitState, frames: np.ndarray, next1: np.ndarray, next2: np.ndarray, gradient: np.ndarray
    ) -> None:
        steps = self._steps(state)
        residual = self._accelerations(steps)[..., None]
        inverse_step, weight = self._time_weights()
        weight = weight[..., None] * self._block_weights()[..., None]
        later = right_jacobian_inverse(steps)
        later[:, -1] = np.eye(3)
        earlier = later.swapaxes(-1, -2) * inverse_step[:, None, None, None]
        later = later * inverse_step[:, None, None, None]
        jacobians = (earlier[:-1] * weight, -(later[:-1] + earlier[1:]) * weight, later[1:] * weight)
        transposed = [jacobian.swapaxes(-1, -2) for jacobian in jacobians]
        count = len(residual)
        for i in range(3):
            _add_blocks(frames[i : i + count], transposed[i] @ jacobians[i], first=0)
            gradient[i : i + count] += (transposed[i] @ residual).reshape(count, -1)
        next1[:count] += transposed[1] @ jacobians[0]
        next1[1 : 1 + count] += transposed[2] @ jacobians[1]
        next2 += transposed[2] @ jacobians[0]


def apply_step(state: FitState, frames: Float64[np.ndarray, "N D"], shape: Float64[np.ndarray, " B"]) -> FitState:
    """The state after increments: rotations on the right, translation and shape added."""
    n, j = state.rotations.shape[:2]
    turned = state.rotations @ exp_rotation(frames[:, : 3 * j].reshape(n, j, 3))
    return FitState(
        rotations=turned,
        transl=state.transl + frames[:, 3 * j :],
        betas=state.betas + shape,
        landmark_scale=state.landmark_scale,
        anchors=state.anchors,
    )


def _robust(residuals: Float64[np.ndarray, "N K C"], kernel: float) -> Float64[np.ndarray, "N K"]:
    squared = (residuals**2).sum(-1)
    result: np.ndarray = kernel * squared / (kernel + squared)
    return result


def _root_weight(residuals: Float64[np.ndarray, "N K C"], kernel: float) -> Float64[np.ndarray, "N K"]:
    result: np.ndarray = kernel / (kernel + (residuals**2).sum(-1))
    return result


def _centred(values: Float64[np.ndarray, "N K C"], weights: Float64[np.ndarray, "N K"]) -> Float64[np.ndarray, "N K C"]:
    total = np.maximum(weights.sum(1), 1e-9)[:, None, None]
    mean = (weights[:, None, :] @ values) / total
    result: np.ndarray = values - mean
    return result


def _add_blocks(frames: Float64[np.ndarray, "N D D"], blocks: Float64[np.ndarray, "N M 3 3"], *, first: int) -> None:
    for i in range(blocks.shape[1]):
        place = slice(3 * (first + i), 3 * (first + i) + 3)
        frames[:, place, place] += blocks[:, i]


def _freeze(equations: NormalEquations, blocks: tuple[int, ...]) -> None:
    """Turns frozen unknowns' rows into "increment = 0"."""
    for block in blocks:
        place = slice(3 * block, 3 * block + 3)
        equations.frames[:, place, :] = 0
        equations.frames[:, :, place] = 0
        equations.frames[:, place, place] = np.eye(3)
        equations.next1[:, block] = 0
        equations.next2[:, block] = 0
        equations.shape_coupling[:, place] = 0
        equations.gradient[:, place] = 0
