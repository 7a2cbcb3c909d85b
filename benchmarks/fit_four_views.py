"""Fits from one real view against points triangulated from four: `python -m benchmarks.fit_four_views VIDEOS TRACKS`.

VIDEOS holds the calibrated clips of the package `pose2sim` (`Demo_SinglePerson`), named four_views_cam01.mp4 .. 04.mp4,
and their calibration, four_views_calibration.qca.txt. TRACKS caches their keypoint tracks. The triangulated points are
those of the same detector in all views, so they are no independent truth: they carry its habits, not its depth guesses.
"""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float64, Int64

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.records import KeypointTrack, Reject, SourceVideo
from lhmforge.datasets.synthetic.pose_errors import similarity_aligned
from lhmforge.datasets.threads import single_threaded
from lhmforge.pipelines.context import UnitContext
from lhmforge.pipelines.fitting.landmarks import POINT_NAMES, WHOLEBODY_INDEX, solver_body
from lhmforge.pipelines.fitting.rotations import exp_rotation
from lhmforge.pipelines.fitting.track_fit import FittingBody, TrackFitConfig, fit_track
from lhmforge.pipelines.record_codec import decode_records, encode_records
from lhmforge.pipelines.stages.keypoints import KeypointsStage
from lhmforge.pipelines.stages.matte import MatteStage
from lhmforge.pipelines.stages.probe import ProbeStage
from lhmforge.pipelines.stages.shots import ShotsStage
from lhmforge.pipelines.stages.track import TrackStage

PARTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "heel", "big_toe")
NAMES = tuple(f"{side}_{part}" for part in PARTS for side in ("left", "right"))
POINTS = np.array([POINT_NAMES.index(name) for name in NAMES])
_SAMPLE_FPS = 30.0
_SEEN_SCORE, _LARGEST_ERROR_PX = 0.5, 20.0
_MIN_POINTS = 10
_CAMERA_AXES = np.diag([1.0, -1.0, -1.0])  # the calibration's cameras look along -z with y up


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedCamera:
    """World to OpenCV camera, metres, and the lens."""

    rotation: Float64[np.ndarray, "3 3"]
    translation: Float64[np.ndarray, " 3"]
    intrinsics: Float64[np.ndarray, "3 3"]
    distortion: Float64[np.ndarray, " 5"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Triangulated:
    """World positions of `NAMES` in common frames; NaN where fewer than two views agree."""

    frame_indices: Int64[np.ndarray, " N"]
    points_m: Float64[np.ndarray, "N 16 3"]
    median_error_px: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewErrors:
    """Mean errors of one view's fit (mm), and each point's mean distance in the body's axes after alignment."""

    pa_mm: float
    mpjpe_mm: float
    reprojection_percent: float
    focal_px: float
    offsets_mm: Float64[np.ndarray, "16 3"]  # fitted minus triangulated: left, up, front of the pelvis
    spread_mm: Float64[np.ndarray, " 16"]  # what is left of a point's distance once its mean offset is taken off
    depth_mm: Float64[np.ndarray, " 16"]  # mean |distance| along the view's optical axis, pelvis aligned


def read_calibration(path: Path) -> list[CalibratedCamera]:
    """The cameras of a Qualisys calibration (lengths in mm and 1/64 px)."""
    cameras = ElementTree.parse(path).getroot().find("cameras")
    assert cameras is not None, f"{path} lists no cameras"
    found = []
    for camera in cameras:
        transform, lens = camera.find("transform"), camera.find("intrinsic")
        assert transform is not None and lens is not None
        place = {name: float(value) for name, value in transform.attrib.items()}
        optics = {name: float(value) for name, value in lens.attrib.items()}
        turn = np.array([[place[f"r{i}{j}"] for j in (1, 2, 3)] for i in (1, 2, 3)])
        centre = np.array([place[axis] for axis in "xyz"]) / 1000
        intrinsics = np.array(
            [
                [optics["focalLengthU"], 0, optics["centerPointU"]],
                [0, optics["focalLengthV"], optics["centerPointV"]],
                [0, 0, 64],
            ]
        )
        names = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2")
        found.append(
            CalibratedCamera(
                rotation=_CAMERA_AXES @ turn,
                translation=-_CAMERA_AXES @ turn @ centre,
                intrinsics=intrinsics / 64,
                distortion=np.array([*(optics[name] for name in names), optics["radialDistortion3"]]),
            )
        )
    return found


def keypoint_tracks(videos: Path, cache: Path) -> list[KeypointTrack]:
    """The tallest person's keypoints in each view, from the default stages up to the keypoints."""
    cache.mkdir(parents=True, exist_ok=True)
    stages = (
        ProbeStage(),
        ShotsStage(),
        TrackStage(sample_fps=_SAMPLE_FPS, min_duration_s=0.5),
        MatteStage(),
        KeypointsStage(),
    )
    found = []
    for view in range(1, 5):
        name = f"four_views_cam{view:02d}"
        path = cache / f"{name}.track"
        if not path.exists():
            records: list[object] = [SourceVideo(uri=str(videos / f"{name}.mp4"), source_id=name)]
            with UnitContext({}) as context, single_threaded():
                for stage in stages:
                    produced = [item for record in records for item in stage(record, context)]  # type: ignore[operator]
                    records = [item for item in produced if not isinstance(item, Reject)]
            tracks = [record for record in records if isinstance(record, KeypointTrack)]
            path.write_bytes(encode_records([max(tracks, key=_height)]))
        found.append(decode_records(path.read_bytes())[0])
    return found


def triangulate(tracks: Sequence[KeypointTrack], cameras: Sequence[CalibratedCamera]) -> Triangulated:
    """Linear triangulation of points that at least two views agree on; while they disagree, the worst is left out."""
    frames = tracks[0].matted.track.frame_indices
    for track in tracks[1:]:
        frames = np.intersect1d(frames, track.matted.track.frame_indices)
    rays, scores = [], []
    for track, camera in zip(tracks, cameras, strict=True):
        rows = np.searchsorted(track.matted.track.frame_indices, frames)
        pixels = track.keypoints.points_px[rows][:, WHOLEBODY_INDEX[POINTS]].astype(np.float64)
        flat = cv2.undistortPoints(pixels.reshape(-1, 1, 2), camera.intrinsics, camera.distortion)
        rays.append(flat.reshape(*pixels.shape[:2], 2))
        scores.append(track.keypoints.scores[rows][:, WHOLEBODY_INDEX[POINTS]])
    points = np.full((len(frames), len(POINTS), 3), np.nan)
    errors = []
    for n in range(len(frames)):
        for k in range(len(POINTS)):
            views = [v for v in range(len(tracks)) if scores[v][n, k] > _SEEN_SCORE]
            while len(views) >= 2:
                point, error = _intersection([rays[v][n, k] for v in views], [cameras[v] for v in views])
                if error.max() <= _LARGEST_ERROR_PX:
                    points[n, k] = point
                    errors.append(float(error.mean()))
                    break
                views.pop(int(error.argmax()))
    return Triangulated(frame_indices=frames, points_m=points, median_error_px=float(np.median(errors)))


def compare(
    track: KeypointTrack,
    camera: CalibratedCamera,
    truth: Triangulated,
    body: FittingBody,
    config: TrackFitConfig,
) -> ViewErrors:
    """Fits one view and compares the solver's points, as the detector marks them, with the triangulated ones."""
    fitted = fit_track(track, body, config)
    assert fitted is not None
    rows = np.searchsorted(track.matted.track.frame_indices, truth.frame_indices)
    params = fitted.body.select(rows)
    pose = np.concatenate([params.global_orient[:, None], params.body_pose], 1).astype(np.float64)
    tree = solver_body(body.model, track.keypoints.landmark_set)
    turns = exp_rotation(pose)
    points = tree.forward(turns, params.transl.astype(np.float64), params.betas.astype(np.float64)).points[:, POINTS]
    true = truth.points_m @ camera.rotation.T + camera.translation
    hips = [NAMES.index("left_hip"), NAMES.index("right_hip")]
    good = np.isfinite(true[..., 0])
    use = (good.sum(1) >= _MIN_POINTS) & good[:, hips].all(1)
    aligned, apart = np.full_like(points, np.nan), np.full_like(points, np.nan)
    for n in np.flatnonzero(use):
        fit, seen = points[n, good[n]], true[n, good[n]]
        aligned[n, good[n]] = similarity_aligned(fit, seen) - seen
        apart[n, good[n]] = (fit - points[n, hips].mean(0)) - (seen - true[n, hips].mean(0))
    local = np.einsum("nji,nkj->nki", turns[:, 0], aligned)
    offsets = np.nanmean(local, 0)
    heights = np.ptp(track.matted.track.boxes_px[:, 1::2], axis=1)
    return ViewErrors(
        pa_mm=_mean_mm(aligned),
        mpjpe_mm=_mean_mm(apart),
        reprojection_percent=100 * float(np.nanmedian(fitted.reprojection_px / heights)),
        focal_px=float(fitted.intrinsics[0, 0]),
        offsets_mm=1000 * offsets,
        spread_mm=1000 * np.nanmean(np.linalg.norm(local - offsets, axis=-1), 0),
        depth_mm=1000 * np.nanmean(np.abs(apart[..., 2]), 0),
    )


def print_views(errors: Sequence[ViewErrors], *, points: bool = False) -> None:
    """A line per view and the median; with `points`, a line per point, averaged over the views."""
    for number, e in enumerate(errors, 1):
        print(
            f"cam{number:02d}: PA {e.pa_mm:6.1f}  MPJPE {e.mpjpe_mm:6.1f}  reprojection {e.reprojection_percent:.2f} %"
            f"  focal {e.focal_px:.0f} px"
        )
    print(
        f"median PA {np.median([e.pa_mm for e in errors]):.1f}  MPJPE {np.median([e.mpjpe_mm for e in errors]):.1f}",
        flush=True,
    )
    if not points:
        return
    print(f"{'point':16s}{'left':>7s}{'up':>7s}{'front':>7s}{'spread':>8s}{'depth':>7s}   (mm)")
    for k, name in enumerate(NAMES):
        x, y, z = np.mean([e.offsets_mm[k] for e in errors], 0)
        spread, depth = (
            float(np.mean(values)) for values in ([e.spread_mm[k] for e in errors], [e.depth_mm[k] for e in errors])
        )
        print(f"{name:16s}{x:7.0f}{y:7.0f}{z:7.0f}{spread:8.0f}{depth:7.0f}")


def _height(track: KeypointTrack) -> float:
    return float(np.ptp(track.matted.track.boxes_px[:, 1::2], axis=1).mean())


def _mean_mm(differences: Float64[np.ndarray, "N K 3"]) -> float:
    per_frame = [d[np.isfinite(d[:, 0])] for d in differences]
    return 1000 * float(np.mean([np.linalg.norm(d, axis=-1).mean() for d in per_frame if len(d)]))


def _intersection(
    rays: Sequence[np.ndarray], cameras: Sequence[CalibratedCamera]
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " V"]]:
    """The point nearest to the views' rays (linear) and its distance in each view, pixels."""
    rows = []
    for ray, camera in zip(rays, cameras, strict=True):
        projection = np.column_stack([camera.rotation, camera.translation])
        rows += [ray[0] * projection[2] - projection[0], ray[1] * projection[2] - projection[1]]
    found = np.linalg.svd(np.array(rows))[2][-1]
    point = found[:3] / found[3]
    errors = []
    for ray, camera in zip(rays, cameras, strict=True):
        seen = camera.rotation @ point + camera.translation
        errors.append(np.linalg.norm(seen[:2] / seen[2] - ray) * camera.intrinsics[0, 0])
    return point, np.array(errors)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path)
    parser.add_argument("tracks", type=Path)
    parser.add_argument("--points", action="store_true", help="print a line per point")
    parser.add_argument("--calibrated", action="store_true", help="give the fit the true focal length")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cameras = read_calibration(arguments.videos / "four_views_calibration.qca.txt")
    tracks = keypoint_tracks(arguments.videos, arguments.tracks)
    truth = triangulate(tracks, cameras)
    print(f"{len(truth.frame_indices)} frames, triangulated points lie {truth.median_error_px:.1f} px (median) off")
    body = FittingBody.load(free_body_path())
    errors = []
    for track, camera in zip(tracks, cameras, strict=True):
        focal = float(camera.intrinsics[0, 0]) if arguments.calibrated else 0.0
        errors.append(compare(track, camera, truth, body, replace(TrackFitConfig(), focal_px=focal)))
    print_views(errors, points=arguments.points)
    return 0


if __name__ == "__main__":
    sys.exit(main())
