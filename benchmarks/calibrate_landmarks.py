"""Measures where a keypoint detector's points lie on the free body: `python -m benchmarks.calibrate_landmarks`.

Renders synthetic people, runs the keypoint backend, and finds per landmark the rest-frame offset from a joint that
explains the detected 2D points best (soft L1, left and right mirrored together). Prints the rows for
`pipelines/fitting/landmark_offsets.json` and the median 2D error before and after.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import least_squares

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.lbs import axis_angle_to_matrix, joint_chain
from lhmforge.datasets.body.model import BodyModel, full_pose
from lhmforge.datasets.codecs import decode_png
from lhmforge.datasets.records import Clip, Keypoints, SourceVideo, Track, Video
from lhmforge.datasets.synthetic.clip import ClipConfig, SyntheticClip, render_clip
from lhmforge.datasets.synthetic.truth import ClipTruth
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.fitting.landmarks import POINT_NAMES, WHOLEBODY_INDEX

_MIN_SCORE = 0.6
# Joint that a landmark is measured from, and the joint whose rotation carries the offset.
_CARRIERS = {
    "nose": ("head", "head"),
    "left_eye": ("left_eye", "head"),
    "left_ear": ("head", "head"),
    "left_mouth": ("head", "head"),
    "left_shoulder": ("left_shoulder", "left_collar"),
    "left_elbow": ("left_elbow", "left_shoulder"),
    "left_wrist": ("left_wrist", "left_elbow"),
    "left_hip": ("left_hip", "pelvis"),
    "left_knee": ("left_knee", "left_hip"),
    "left_ankle": ("left_ankle", "left_ankle"),
    "left_heel": ("left_ankle", "left_ankle"),
    "left_big_toe": ("left_foot", "left_ankle"),
    "left_index": ("left_index1", "left_wrist"),
    "left_pinky": ("left_pinky1", "left_wrist"),
    "left_thumb": ("left_thumb2", "left_wrist"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One clip's truth and what the detector said about it."""

    truth: ClipTruth
    keypoints: Keypoints


def collect(backend: str, num_clips: int, num_frames: int, seed: int) -> Iterator[Sample]:
    """Renders clips and runs the keypoint backend on them."""
    body = BodyModel.load(free_body_path())
    estimator = load_backend("keypoints", BackendSpec(name=backend))
    for index in range(num_clips):
        clip = render_clip(ClipConfig(seed=seed, index=index, num_frames=num_frames, fps=4.0), body)
        yield Sample(truth=clip.truth, keypoints=estimator.estimate(iter(clip.frames), _track(clip)))
        print(f"clip {index + 1} of {num_clips}", file=sys.stderr, flush=True)


def measure(samples: Sequence[Sample], body: BodyModel) -> dict[str, list[object]]:
    """Table rows (joint, carrying joint, offset in mm) per landmark; prints the errors before and after."""
    rows: dict[str, list[object]] = {}
    poses = [_joints_and_frames(sample, body) for sample in samples]
    for name, (joint_name, frame_name) in _CARRIERS.items():
        sides = [(1.0, name, joint_name, frame_name)]
        if name.startswith("left_"):
            sides.append((-1.0, *(text.replace("left_", "right_") for text in (name, joint_name, frame_name))))
        parts = [_observations(samples, poses, *side) for side in sides]
        centre, axes, seen, focal, principal = (np.concatenate(part) for part in zip(*parts, strict=True))

        def residual(
            offset: np.ndarray,
            centre: np.ndarray = centre,
            axes: np.ndarray = axes,
            seen: np.ndarray = seen,
            focal: np.ndarray = focal,
            principal: np.ndarray = principal,
        ) -> np.ndarray:
            points = centre + axes @ offset
            pixels = points[:, :2] / points[:, 2:] * focal[:, None] + principal
            result: np.ndarray = ((pixels - seen) * (centre[:, 2:] / focal[:, None]) * 1000).ravel()
            return result

        middle = [1] if name == "nose" else []
        free = [i for i in range(3) if not (middle and i == 0)]
        embed = lambda x, free=free: np.bincount(free, x, 3)  # noqa: E731
        found = least_squares(
            lambda x, embed=embed, residual=residual: residual(embed(x)),
            np.zeros(len(free)),
            loss="soft_l1",
            f_scale=20,
        )
        offset = embed(found.x)
        before, after = (
            float(np.median(np.linalg.norm(residual(o).reshape(-1, 2), axis=1))) for o in (np.zeros(3), offset)
        )
        rows[name] = [joint_name, frame_name, [round(float(1000 * value), 1) for value in offset]]
        print(f"{name:15s} n={len(seen):4d} offset mm {rows[name][2]!s:24s} 2D error mm {before:.0f} -> {after:.0f}")
    return rows


def _joints_and_frames(sample: Sample, body: BodyModel) -> tuple[np.ndarray, np.ndarray]:
    params = sample.truth.persons[0].body
    rotations = axis_angle_to_matrix(torch.from_numpy(full_pose(params)))
    rest = body.joints_rest(torch.from_numpy(params.betas)[None]).expand(params.num_frames, -1, -1)
    chain = joint_chain(rotations, rest, body.parents).double().numpy()
    return chain[..., :3, 3] + params.transl[:, None], chain[..., :3, :3]


def _observations(
    samples: Sequence[Sample],
    poses: Sequence[tuple[np.ndarray, np.ndarray]],
    sign: float,
    name: str,
    joint_name: str,
    frame_name: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Joint positions, carrying axes (mirrored for the right side), pixels seen, focal lengths, principal points."""
    index = int(WHOLEBODY_INDEX[POINT_NAMES.index(name)])
    columns: list[list[np.ndarray]] = [[], [], [], [], []]
    for sample, (joints, frames) in zip(samples, poses, strict=True):
        good = sample.keypoints.scores[:, index] >= _MIN_SCORE
        intrinsics = sample.truth.intrinsics.astype(np.float64)
        count = int(good.sum())
        columns[0].append(joints[good, joint(joint_name)])
        columns[1].append(frames[good, joint(frame_name)] * [sign, 1, 1])
        columns[2].append(sample.keypoints.points_px[good, index].astype(np.float64))
        columns[3].append(np.full(count, intrinsics[0, 0]))
        columns[4].append(np.tile(intrinsics[:2, 2], (count, 1)))
    a, b, c, d, e = (np.concatenate(column) for column in columns)
    return a, b, c, d, e


def _track(clip: SyntheticClip) -> Track:
    """The true person's boxes as a track."""
    num_frames, height, width = clip.frames.shape[:3]
    boxes = []
    for png in clip.truth.persons[0].alpha_pngs:
        mask = decode_png(png, what="true matte") > 127
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    video = Video(
        source=SourceVideo(uri="", source_id="synthetic"),
        digest="0" * 64,
        container="",
        codec="",
        width_px=width,
        height_px=height,
        rotation_deg=0,
        num_frames=num_frames,
        fps=clip.truth.fps,
        duration_s=num_frames / clip.truth.fps,
        bit_depth=8,
    )
    return Track(
        clip=Clip(video=video, first_frame=0, end_frame=num_frames),
        person=0,
        frame_indices=np.arange(num_frames),
        boxes_px=np.array(boxes, np.float32),
        scores=np.ones(num_frames, np.float32),
        other_boxes_px=tuple(np.zeros((0, 4), np.float32) for _ in range(num_frames)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="mediapipe")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--seed", type=int, default=55)
    arguments = parser.parse_args()
    body = BodyModel.load(free_body_path())
    samples = list(collect(arguments.backend, arguments.clips, arguments.frames, arguments.seed))
    rows = measure(samples, body)
    table = {"source": samples[0].keypoints.landmark_set, "topology": body.topology_digest, "points": rows}
    print(json.dumps(table, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
