"""From a photo and a checkpoint to an avatar: 3DGS files with a rig, an animation and a turntable."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from lhmforge.datasets import storage
from lhmforge.datasets.body.builtin_motion import turntable, walk_and_wave
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.motion_file import Motion, load_motion, resample
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.body.resolve import body_path
from lhmforge.datasets.codecs import encode_npz
from lhmforge.datasets.config_json import from_json
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.loader import LoaderConfig
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.sample import StoredSample
from lhmforge.datasets.sampling import Example, SamplingConfig, evaluation_example
from lhmforge.jobs.gpu_memory import memory_explained
from lhmforge.jobs.photo import PhotoStages, fit_photo, read_photo
from lhmforge.lhm_model.animate import camera_for, render_motion
from lhmforge.lhm_model.avatar import Avatar, write_avatar
from lhmforge.lhm_model.checkpoint import read_record, resolve_checkpoint
from lhmforge.lhm_model.checkpoint_read import load_model
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.ply import GaussianCloud, write_ply
from lhmforge.lhm_model.video_file import write_video

Progress = Callable[[str, int, int], None]  # what, done, of how many


@dataclass(frozen=True, slots=True, kw_only=True)
class AnimateConfig:
    """What to make and how large; `motion` is as in `load_motion`, empty for the built-in walk and wave."""

    checkpoint: Path
    image: Path
    output: Path
    motion: str = ""
    body: str | None = None
    person: int | None = None
    width: int = 384
    height: int = 640
    fps: float = 24.0
    max_seconds: float = 60.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not (16 <= self.width <= 4096 and 16 <= self.height <= 4096):
            raise ConfigError(f"animate: a picture of {self.width} x {self.height} px; sides must lie in 16 .. 4096")
        if not 1.0 <= self.fps <= 120.0 or self.max_seconds <= 0:
            raise ConfigError(f"animate: fps {self.fps} must lie in 1 .. 120 and max_seconds be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnimateResult:
    """The files that were written."""

    avatar: Path  # zero pose
    posed: Path  # the photo's pose, in the photo's camera
    rig: Path
    person: Path  # shape, pose and camera fitted to the photo
    source: Path  # the picture that the model saw
    animation: Path
    turntable: Path
    num_frames: int
    notices: tuple[str, ...]  # what the user should know: people left out, parts that the photo does not show


def animate(
    config: AnimateConfig, *, stages: PhotoStages | None = None, progress: Progress | None = None
) -> AnimateResult:
    """Reconstructs the photo's person and writes everything below `config.output`.

    Raises `PhotoError`, `CheckpointError`, `BodyError` (motion or body file), `BackendError` (GPU memory, weights).
    """
    motion, notices = _motion(config)  # read before the slow parts, so that a bad file is told at once
    photo = read_photo(config.image)
    body = BodyModel.load(body_path(config.body))
    with memory_explained("use smaller --width and --height, a smaller preset, or --device cpu"):
        model = load_model(config.checkpoint, body).to(config.device)
        fitted = fit_photo(photo, stages or PhotoStages.default(body=config.body or ""), person=config.person)
        motion, foreign = _of_this_body(motion, config.motion, body)
        result = _make(config, model, fitted.sample, motion, progress or (lambda *_: None))
    return replace(result, notices=(*notices, *fitted.notices, *foreign))


def reconstruct(model: LHM, sample: StoredSample, sampling: SamplingConfig) -> tuple[Avatar, Example]:
    """The avatar of a stored sample's most frontal frame, and the example (crops) that the model was given."""
    example = evaluation_example(sample, sampling)
    device = next(model.parameters()).device

    def as_tensor(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)[None].to(device)

    with torch.no_grad():
        canonical = model.encode(
            source_image=as_tensor(example.source.image),
            head_image=as_tensor(example.head_image),
            head_valid=torch.tensor([example.head_valid], device=device),
        )
    return Avatar(model=model, canonical=canonical, betas=sample.body.betas), example


def sampling_of(checkpoint: Path) -> SamplingConfig:
    """How training cut its pictures, from the checkpoint's record; raises `CheckpointError`, `ConfigError`."""
    record = read_record(resolve_checkpoint(checkpoint))
    if "loader" not in record.run_config:
        raise ConfigError(f"{checkpoint}: the checkpoint does not say how its pictures were cut (no loader config)")
    return from_json(LoaderConfig, record.run_config["loader"], where="loader")


def _make(config: AnimateConfig, model: LHM, sample: StoredSample, motion: Motion, progress: Progress) -> AnimateResult:
    avatar, example = reconstruct(model, sample, sampling_of(config.checkpoint))
    folder = config.output
    cloud_path, rig_path = write_avatar(folder, avatar)
    write_ply(folder / "posed.ply", GaussianCloud.of(avatar.pose(sample.body)))
    _write_person(folder / "person.npz", sample.body, sample)
    _write_png(folder / "source.png", example.source.image)
    videos = {"animation": motion, "turntable": turntable(fps=config.fps)}
    count = 0
    for name, shown in videos.items():
        camera = camera_for(avatar, shown, width=config.width, height=config.height)
        frames = _counted(render_motion(avatar, shown, camera), name, shown.body.num_frames, progress)
        count += write_video(folder / f"{name}.mp4", frames, fps=config.fps)
    return AnimateResult(
        avatar=cloud_path,
        posed=folder / "posed.ply",
        rig=rig_path,
        person=folder / "person.npz",
        source=folder / "source.png",
        animation=folder / "animation.mp4",
        turntable=folder / "turntable.mp4",
        num_frames=count,
        notices=(),
    )


def _motion(config: AnimateConfig) -> tuple[Motion, tuple[str, ...]]:
    """The motion to play at the wanted rate, and a notice when it was cut."""
    if not config.motion:
        return walk_and_wave(fps=config.fps), ()
    motion = resample(load_motion(config.motion), config.fps)
    kept = min(motion.body.num_frames, round(config.max_seconds * config.fps))
    cut = f"the motion lasts {motion.body.num_frames / config.fps:.1f} s and is cut to {config.max_seconds:g} s"
    notices = (f"{cut}; see --max-seconds",) if kept < motion.body.num_frames else ()
    return Motion(name=motion.name, body=motion.body.select(np.arange(kept)), fps=config.fps), notices


def _of_this_body(motion: Motion, source: str, body: BodyModel) -> tuple[Motion, tuple[str, ...]]:
    """Joint angles fit every body in SMPL-X form; expression coefficients only the body that they were fitted to."""
    path, _, key = source.partition("#")
    if not key or not bool(motion.body.expression.any()):
        return motion, ()
    digests = set(Manifest.load(path).select((key,))["body_digest"])
    if digests == {body.digest}:
        return motion, ()
    still = replace(motion.body, expression=np.zeros_like(motion.body.expression))
    return replace(motion, body=still), ("the track was fitted with another body file: its expressions are left out",)


def _counted(
    frames: Iterator[UInt8[np.ndarray, "H W 3"]], name: str, total: int, progress: Progress
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    for done, frame in enumerate(frames, start=1):
        yield frame
        progress(name, done, total)


def _write_person(path: Path, body: BodyParams, sample: StoredSample) -> None:
    arrays = body.to_arrays() | {"intrinsics": sample.intrinsics[0], "version": np.array(1, np.int64)}
    storage.publish(path, (encode_npz(arrays),))


def _write_png(path: Path, image: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)).save(buffer, format="PNG")
    storage.publish(path, (buffer.getvalue(),))
