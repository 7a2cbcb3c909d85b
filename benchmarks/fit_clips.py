"""Accuracy of whole fits on synthetic clips with known bodies: `python -m benchmarks.fit_clips FOLDER`.

FOLDER holds the clips of `benchmarks.fit_data`. Prints one line per group of clips and one for all; `--each` also one
per clip. Errors against the truth, in mm and degrees; see `ClipErrors` for what each column means.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from benchmarks.fit_data import GROUPS, TrueClip, read_clips
from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.records import FittedTrack
from lhmforge.datasets.synthetic.pose_errors import pose_errors
from lhmforge.pipelines.fitting.rotations import exp_rotation, log_rotation
from lhmforge.pipelines.fitting.silhouette import body_mask, intersection_over_union, matte_mask
from lhmforge.pipelines.fitting.track_fit import FittingBody, TrackFitConfig, fit_track

# Limb joints and their COCO points: 5..16 without the shoulders and hips, which trunk and limbs pin down anyway.
_LIMBS = {"elbow": (7, 8), "wrist": (9, 10), "knee": (13, 14), "ankle": (15, 16)}
_SEEN_SCORE = 0.5
_STILL_M_PER_S = 0.12
_MASK_FRAMES = 6
_FACE_BELOW_HEAD_M = 0.08
_MM = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipErrors:
    """Means over the frames of a clip; NaN where the clip has nothing to measure."""

    pa: float  # PA-MPJPE, mm
    mpjpe: float  # mm
    pve: float  # mm
    shape: float  # vertex distance in the zero pose, mm
    accel: float  # mm per frame squared
    root: float  # orientation error of the pelvis, degrees
    flips: float  # frames with more than 90 degrees of it
    hidden: float  # limb joints that are not visible or have a score below .5: distance, pelvis aligned, mm
    slide: float  # movement of feet that truly stand still, mm per frame
    iou: float  # body's mask against the true matte, percent
    true_iou: float  # the true body's mask against the true matte, percent: what clothes and hair leave
    fingers: float  # mean angle between true and fitted finger joints, degrees
    fingers_rest: float  # the same with the relaxed hand
    face: float  # vertex distance of the face's expression and jaw, mm
    face_rest: float  # the same with a neutral face
    reprojection: float  # median, percent of the box height
    ms: float  # CPU time per frame


def measure(clip: TrueClip, body: FittingBody, config: TrackFitConfig) -> ClipErrors | None:
    """Fits a clip and compares; None where the fit is refused."""
    began = time.process_time()
    fitted = fit_track(clip.track, body, config)
    spent = time.process_time() - began
    if fitted is None:
        return None
    truth, model, n = clip.body, body.model, clip.body.num_frames
    found = pose_errors(model, fitted.body, truth, np.arange(n), np.tile(np.eye(4), (n, 1, 1)))
    joints, true_joints = (model.pose(p).joints.double().numpy() for p in (fitted.body, truth))
    heights = np.ptp(clip.track.matted.track.boxes_px[:, 1::2], axis=1)
    faces = _face_error(model, fitted.body, truth)
    return ClipErrors(
        pa=float(found.pa_mpjpe_mm.mean()),
        mpjpe=float(found.mpjpe_mm.mean()),
        pve=float(found.pve_mm.mean()),
        shape=found.shape_mm,
        accel=float(np.nanmean(found.acceleration_mm)),
        root=float(found.orientation_deg.mean()),
        flips=float((found.orientation_deg > 90).sum()),
        hidden=_hidden_error(clip, joints, true_joints),
        slide=sliding(joints, true_joints, clip.fps),
        iou=100 * _mean_iou(clip, model, fitted.body, fitted.intrinsics),
        true_iou=100 * _mean_iou(clip, model, truth, clip.intrinsics),
        fingers=_finger_error(fitted, truth),
        fingers_rest=_finger_error(None, truth),
        face=faces[0],
        face_rest=faces[1],
        reprojection=100 * float(np.nanmedian(fitted.reprojection_px / heights)),
        ms=1000 * spent / n,
    )


def sliding(joints: Float64[np.ndarray, "N J 3"], true_joints: Float64[np.ndarray, "N J 3"], fps: float) -> float:
    """Mean movement per frame (mm) of the balls of the feet between frames in which the true ones stand still."""
    feet = [joint("left_foot"), joint("right_foot")]
    still = np.linalg.norm(np.diff(true_joints[:, feet], axis=0), axis=-1) * fps < _STILL_M_PER_S
    moved = np.linalg.norm(np.diff(joints[:, feet], axis=0), axis=-1)
    return _MM * float(moved[still].mean()) if still.any() else float("nan")


def _hidden_error(clip: TrueClip, joints: np.ndarray, true_joints: np.ndarray) -> float:
    scores, visible = clip.track.keypoints.scores, clip.visible
    error = np.linalg.norm((joints - joints[:, :1]) - (true_joints - true_joints[:, :1]), axis=-1)
    found = []
    for part, points in _LIMBS.items():
        for side, point in zip(("left", "right"), points, strict=True):
            hidden = ~visible[:, point] | (scores[:, point] < _SEEN_SCORE)
            found.append(error[hidden, joint(f"{side}_{part}")])
    values = np.concatenate(found)
    return _MM * float(values.mean()) if len(values) else float("nan")


def _mean_iou(clip: TrueClip, model: BodyModel, params: BodyParams, intrinsics: np.ndarray) -> float:
    video = clip.track.matted.track.clip.video
    size = (video.width_px, video.height_px)
    chosen = np.unique(np.linspace(0, params.num_frames - 1, _MASK_FRAMES).round().astype(np.int64))
    vertices = model.pose(params.select(chosen)).vertices.double().numpy()
    values = []
    for frame, mesh in zip(chosen, vertices, strict=True):
        window = (0.0, 0.0, float(size[0]), float(size[1]))
        seen = matte_mask(clip.alphas[frame], window_px=window, width=size[0], height=size[1])
        mask = body_mask(
            mesh,
            model.faces.numpy(),
            intrinsics.astype(np.float64),
            window_px=window,
            width=size[0],
            height=size[1],
        )
        values.append(intersection_over_union(seen, mask))
    return float(np.mean(values))


def _finger_error(fitted: FittedTrack | None, truth: BodyParams) -> float:
    from lhmforge.pipelines.fitting.hands import relaxed_hand

    angles = []
    for side in ("left", "right"):
        true_turn = exp_rotation(getattr(truth, f"{side}_hand_pose").astype(np.float64))
        pose = relaxed_hand(side)[None] if fitted is None else getattr(fitted.body, f"{side}_hand_pose")
        difference = log_rotation(exp_rotation(pose.astype(np.float64)).swapaxes(-1, -2) @ true_turn)
        angles.append(np.degrees(np.linalg.norm(difference, axis=-1)).mean())
    return float(np.mean(angles))


def _face_error(model: BodyModel, fitted: BodyParams, truth: BodyParams) -> tuple[float, float]:
    """Mean vertex distance of the face in the zero pose and mean shape, fitted and neutral against true."""
    rest = BodyParams.rest(fitted.num_frames)
    shapes = [
        model.pose(replace(rest, expression=p.expression, jaw_pose=p.jaw_pose)).vertices.numpy()
        for p in (fitted, truth, rest)
    ]
    head = model.pose(BodyParams.rest(1)).joints.numpy()[0, joint("head")]
    template = shapes[2][0]
    face = (template[:, 1] > head[1] - _FACE_BELOW_HEAD_M) & (template[:, 2] > head[2])
    errors = [np.linalg.norm(shapes[i][:, face] - shapes[1][:, face], axis=-1).mean() for i in (0, 2)]
    return _MM * float(errors[0]), _MM * float(errors[1])


def evaluate(clips: Sequence[TrueClip], body: FittingBody, config: TrackFitConfig) -> dict[str, ClipErrors]:
    """Errors per clip name; refused clips are left out and named."""
    found: dict[str, ClipErrors] = {}
    for clip in clips:
        errors = measure(clip, body, config)
        if errors is None:
            print(f"{clip.name}: the fit is refused")
        else:
            found[clip.name] = errors
    return found


def print_table(found: dict[str, ClipErrors], *, each: bool = False) -> None:
    """One line per group and one for all; flips are summed, all else averaged."""
    names = [field.name for field in fields(ClipErrors)]
    print(f"{'':22s}" + "".join(f"{name[:8]:>9s}" for name in names))
    rows = {name: [errors] for name, errors in found.items()} if each else {}
    for group in GROUPS:
        rows[group] = [errors for name, errors in found.items() if f"_{group}_" in name]
    rows["all"] = list(found.values())
    for title, members in rows.items():
        if not members:
            continue
        values = {name: np.array([asdict(member)[name] for member in members]) for name in names}
        cells = [values[n].sum() if n == "flips" else np.nanmean(values[n]) for n in names]
        print(f"{title:22s}" + "".join(f"{cell:9.2f}" for cell in cells), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clips = read_clips(arguments.folder)
    if not clips:
        print(f"{arguments.folder} holds no clips; make some with `python -m benchmarks.fit_data`", file=sys.stderr)
        return 1
    print_table(evaluate(clips, FittingBody.load(free_body_path()), TrackFitConfig()), each=arguments.each)
    return 0


if __name__ == "__main__":
    sys.exit(main())
