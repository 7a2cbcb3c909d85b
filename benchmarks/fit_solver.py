"""Accuracy and speed of the clip solver on synthetic keypoints: `python -m benchmarks.fit_solver [BODY.npz]`.

Limit: PA-MPJPE at most 16 mm and at least 30 frames/s per core with 3 px noise, 10 % missing points, 60 frames.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.resolve import body_path
from lhmforge.pipelines.fitting.keypoint_body import KeypointBody
from lhmforge.pipelines.fitting.landmarks import solver_body
from lhmforge.pipelines.fitting.objective import Objective, ObjectiveConfig
from lhmforge.pipelines.fitting.priors import body_priors
from lhmforge.pipelines.fitting.solver import SolverConfig, solve
from lhmforge.pipelines.fitting.solver_check import (
    NUM_TRUE_BETAS,
    ClipNoise,
    fit_errors,
    fitted_joints,
    make_check_clip,
)
from lhmforge.pipelines.fitting.start import landmark_start

LIMIT_PA_MPJPE_MM = 16.0
LIMIT_FRAMES_PER_S = 30.0
CASES: tuple[tuple[str, ClipNoise, int], ...] = (
    ("3 px, 10 % missing, 60 frames", ClipNoise(), 60),
    ("2 px", ClipNoise(points_px=2), 60),
    ("5 px", ClipNoise(points_px=5), 60),
    ("3 px, 5 % outliers of 60 px", ClipNoise(outliers=0.05), 60),
    ("3 px, 30 % missing", ClipNoise(missing=0.3), 60),
    ("no noise", ClipNoise(points_px=0, missing=0, landmarks_m=0, landmark_bias_m=0), 60),
    ("3 px, 3D 80 mm + 40 mm bias", ClipNoise(landmarks_m=0.08, landmark_bias_m=0.04), 60),
    ("3 px, 300 frames", ClipNoise(), 300),
    ("3 px, 3 frames", ClipNoise(), 3),
)


def measure(body: KeypointBody, truth: BodyModel, noise: ClipNoise, num_frames: int) -> tuple[list[float], list[float]]:
    """Mean [PA-MPJPE, MPJPE, acceleration] in mm and [ms/frame of CPU time, iterations] over six clips."""
    errors, costs = [], []
    for motion in ("walk", "dance"):
        for seed in range(3):
            clip = make_check_clip(truth, motion=motion, num_frames=num_frames, seed=seed, noise=noise)
            began = time.process_time()
            start = landmark_start(body, clip.observations)
            config = ObjectiveConfig(sigma_landmark_m=0.04)
            objective = Objective(body=body, observations=clip.observations, priors=body_priors(), config=config)
            solution = solve(objective, start, SolverConfig())
            spent = time.process_time() - began
            state = replace(solution.state, betas=np.asarray(solution.state.betas))
            found = fit_errors(fitted_joints(truth, state.rotations, state.transl, state.betas), clip.joints)
            errors.append([found.pa_mpjpe_mm, found.mpjpe_mm, found.acceleration_mm])
            costs.append([1000 * spent / num_frames, solution.num_iterations])
    return np.mean(errors, 0).tolist(), np.mean(costs, 0).tolist()


def main() -> int:
    path = body_path(sys.argv[1] if len(sys.argv) > 1 else None)
    body = solver_body(BodyModel.load(Path(path)), "none")
    truth = BodyModel.load(Path(path), num_betas=NUM_TRUE_BETAS)
    print(f"{'case':32s} {'PA-MPJPE':>9s} {'MPJPE':>7s} {'accel':>6s} {'steps':>6s} {'ms/frame':>9s} {'frames/s':>9s}")
    first_row_ok = True
    for index, (name, noise, num_frames) in enumerate(CASES):
        (pa, mpjpe, acceleration), (milliseconds, iterations) = measure(body, truth, noise, num_frames)
        rate = 1000 / milliseconds
        line = (
            f"{name:32s} {pa:9.1f} {mpjpe:7.1f} {acceleration:6.2f} {iterations:6.1f} {milliseconds:9.1f} {rate:9.1f}"
        )
        print(line, flush=True)
        if index == 0:
            first_row_ok = pa <= LIMIT_PA_MPJPE_MM and rate >= LIMIT_FRAMES_PER_S
            verdict = "reached" if first_row_ok else "MISSED"
            print(f"{'  limit':32s} {LIMIT_PA_MPJPE_MM:9.1f} {'':38s} {LIMIT_FRAMES_PER_S:9.1f}  {verdict}")
    return 0 if first_row_ok else 1


if __name__ == "__main__":
    sys.exit(main())
