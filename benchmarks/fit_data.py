"""Synthetic clips with known bodies for measuring the fit, kept as keypoint tracks: `python -m benchmarks.fit_data`.

Twenty clips per seed, in four groups of the five procedural motions: as `synthesize` makes them ("plain"), then with
feet that stay where they stand and the person seen from the side ("side"), from behind ("back"), or from anywhere with
a board that hides a part of the body over most of the clip ("hidden"). Boxes are the true ones; mattes and keypoints
come from the default backends. A refit from these files takes seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32
from scipy.spatial.transform import Rotation

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.codecs import decode_png
from lhmforge.datasets.records import AlphaCrop, Clip, KeypointTrack, Reject, SourceVideo, Track, Video
from lhmforge.datasets.synthetic.clip import ClipConfig, SyntheticClip, render_clip
from lhmforge.datasets.synthetic.motion import MOTIONS, make_motion
from lhmforge.datasets.synthetic.truth import ClipTruth
from lhmforge.datasets.threads import single_threaded
from lhmforge.pipelines.context import UnitContext
from lhmforge.pipelines.record_codec import decode_records, encode_records
from lhmforge.pipelines.stages.keypoints import KeypointsStage
from lhmforge.pipelines.stages.matte import MatteStage

GROUPS = ("plain", "side", "back", "hidden")
NUM_CLIPS = len(GROUPS) * len(MOTIONS)
_FPS = 15.0
_LONGEST_LEAD_S = 2.1  # a motion file is entered at a random place in its first two seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueClip:
    """A track with keypoints, the person's truth, and JPEG pictures of the frames."""

    name: str
    group: str
    track: KeypointTrack
    body: BodyParams  # in OpenCV camera coordinates
    intrinsics: Float32[np.ndarray, "3 3"]
    visible: Bool[np.ndarray, "N 133"]  # not hidden by the body itself; boards are not counted
    alphas: tuple[AlphaCrop, ...]
    pictures: tuple[bytes, ...]

    @property
    def fps(self) -> float:
        return self.track.matted.track.clip.video.fps


def read_clips(folder: Path) -> list[TrueClip]:
    """All clips of a folder that `write_clips` filled."""
    found = []
    for path in sorted(folder.glob("*.clip")):
        track, body, alphas, pictures, intrinsics, visible = decode_records(path.read_bytes())
        found.append(
            TrueClip(
                name=path.stem,
                group=path.stem.split("_")[1],
                track=track,
                body=body,
                intrinsics=intrinsics,
                visible=visible,
                alphas=alphas,
                pictures=pictures,
            )
        )
    return found


def write_clips(folder: Path, seed: int, num_frames: int, indices: Sequence[int]) -> None:
    """Renders and annotates the clips of a seed; those that are there already are left alone."""
    body = BodyModel.load(free_body_path())
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        group, motion = GROUPS[index // len(MOTIONS)], list(MOTIONS)[index % len(MOTIONS)]
        path = folder / f"{index:02d}_{group}_{motion}.clip"
        if path.exists():
            continue
        clip = _render(seed, index, group, motion, num_frames, body)
        track = _annotate(clip)
        if isinstance(track, Reject):
            print(f"{path.stem}: rejected, {track.reason}: {track.detail}", file=sys.stderr)
            continue
        pictures = tuple(cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes() for frame in clip.frames)
        person = clip.truth.persons[0]
        alphas = tuple(AlphaCrop(window_px=(0, 0, *clip.frames.shape[2:0:-1]), png=png) for png in person.alpha_pngs)
        content = [track, person.body, alphas, pictures, clip.truth.intrinsics, person.visible]
        path.write_bytes(encode_records(content))
        print(path.stem, file=sys.stderr, flush=True)


def _render(seed: int, index: int, group: str, motion: str, num_frames: int, body: BodyModel) -> SyntheticClip:
    config = ClipConfig(seed=seed, index=index, num_frames=num_frames, fps=_FPS, motion=motion)
    if group == "plain":
        return render_clip(config, body)
    rng = np.random.default_rng([seed, index, 1])
    turn = {"side": rng.choice([-1, 1]) * np.pi / 2, "back": np.pi, "hidden": rng.uniform(-np.pi, np.pi)}[group]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, f"{motion}.npz")
        _write_planted(path, motion, num_frames + int(_LONGEST_LEAD_S * _FPS), turn, body, rng)
        clip = render_clip(replace(config, motion_file=str(path)), body)
    return _hide_part(clip, rng) if group == "hidden" else clip


def _write_planted(
    path: Path, name: str, num_frames: int, turn: float, body: BodyModel, rng: np.random.Generator
) -> None:
    """An AMASS file of a procedural motion whose path keeps the lower foot in place, turned about the vertical."""
    motion = make_motion(name, num_frames, _FPS, rng)
    rest = BodyParams.rest(num_frames)
    pose = motion.full_pose
    params = replace(rest, global_orient=pose[:, 0], body_pose=pose[:, 1:22])
    joints = body.pose(params).joints.numpy().astype(np.float64)
    feet = joints[:, [joint(f"{side}_{part}") for side in ("left", "right") for part in ("ankle", "foot")]]
    lift = feet[..., 1] - np.array([0.075, 0.02, 0.075, 0.02])  # of the joints above the sole
    share = np.exp(-(lift - lift.min(1, keepdims=True)) / 0.01)
    share = (share / share.sum(1, keepdims=True))[1:]
    path_m = np.zeros((num_frames, 3))
    path_m[1:] = -np.cumsum((share[..., None] * np.diff(feet, axis=0)).sum(1), axis=0)
    path_m[:, 1] = 0
    about = Rotation.from_euler("x", 90, degrees=True) * Rotation.from_euler("y", turn)
    full = pose.astype(np.float64)
    full[:, 0] = (about * Rotation.from_rotvec(full[:, 0])).as_rotvec()
    np.savez(path, poses=full.reshape(num_frames, 165), trans=about.apply(path_m), mocap_frame_rate=np.array(_FPS))


def _hide_part(clip: SyntheticClip, rng: np.random.Generator) -> SyntheticClip:
    """A board that stands before the person, from the legs' side or from the left or right, all but a few frames."""
    frames = clip.frames.copy()
    num_frames, height, width = frames.shape[:3]
    boxes = np.array([_box(clip.truth, n) for n in range(num_frames)])
    x0, y0 = boxes[:, :2].min(0)
    x1, y1 = boxes[:, 2:].max(0)
    kind, share = rng.integers(3), rng.uniform(0.3, 0.42)
    area = (
        (0, int(y1 - share * (y1 - y0)), width, height),
        (int(x0) - 4, 0, int(x0 + share * (x1 - x0)), height),
        (int(x1 - share * (x1 - x0)), 0, int(x1) + 4, height),
    )[kind]
    left, top, right, bottom = np.clip(area, 0, [width, height, width, height])
    board = rng.uniform(60, 200, 3) + cv2.GaussianBlur(rng.normal(0, 60, (height, width, 3)), (0, 0), 3)
    board = np.clip(board, 0, 255).astype(np.uint8)
    frames[num_frames // 8 : -max(num_frames // 8, 1), top:bottom, left:right] = board[top:bottom, left:right]
    return replace(clip, frames=frames)


def _box(truth: ClipTruth, frame: int) -> list[float]:
    mask = decode_png(truth.persons[0].alpha_pngs[frame], what="true matte") > 127
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


class _FrameContext(UnitContext):
    """Serves the rendered frames."""

    def __init__(self, rendered: np.ndarray) -> None:
        super().__init__({})
        self._rendered = rendered

    def frames(self, video: Video, frame_indices: np.ndarray) -> Iterator[np.ndarray]:
        return iter(self._rendered[frame_indices])


def _annotate(clip: SyntheticClip) -> KeypointTrack | Reject:
    num_frames, height, width = clip.frames.shape[:3]
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
    track = Track(
        clip=Clip(video=video, first_frame=0, end_frame=num_frames),
        person=0,
        frame_indices=np.arange(num_frames),
        boxes_px=np.array([_box(clip.truth, n) for n in range(num_frames)], np.float32),
        scores=np.ones(num_frames, np.float32),
        other_boxes_px=tuple(np.zeros((0, 4), np.float32) for _ in range(num_frames)),
    )
    with _FrameContext(clip.frames) as context, single_threaded():
        matted = next(iter(MatteStage()(track, context)))
        return matted if isinstance(matted, Reject) else next(iter(KeypointsStage()(matted, context)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--end", type=int, default=NUM_CLIPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write_clips(arguments.folder, arguments.seed, arguments.frames, range(arguments.first, arguments.end))
    return 0


if __name__ == "__main__":
    sys.exit(main())
