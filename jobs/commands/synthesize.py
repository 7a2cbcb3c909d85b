"""`lhmforge synthesize`: renders synthetic people, as videos with truth or as multi-view training shards."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Kind(StrEnum):
    """What to write."""

    videos = "videos"
    shards = "shards"


class Mixture(StrEnum):
    """Which clips."""

    plain = "plain"
    trial = "trial"


def synthesize(
    count: Annotated[int, typer.Option(help="number of clips, or of persons for shards")],
    output: Annotated[Path, typer.Option(help="folder to write into; finished parts of an earlier call are kept")],
    kind: Annotated[Kind, typer.Option(help="videos: clips with truth; shards: multi-view samples")] = Kind.videos,
    seed: Annotated[int, typer.Option(help="everything random follows from it")] = 0,
    frames: Annotated[int, typer.Option(help="frames per clip, or views per sample (default 32 / 30)")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels")] = "480x640",
    fps: Annotated[float, typer.Option(help="frame rate of the clips")] = 15.0,
    motion: Annotated[str, typer.Option(help="walk, dance, turn, sit or cross_arms; none: all in turn")] = "",
    motion_file: Annotated[Path | None, typer.Option(help="AMASS / SMPL-X npz to perform instead")] = None,
    persons: Annotated[int, typer.Option(help="persons per clip, 1 to 4")] = 1,
    mixture: Annotated[
        Mixture,
        typer.Option(help="trial: all motions and views, people who cross; to measure curation on (videos only)"),
    ] = Mixture.plain,
    workers: Annotated[int, typer.Option(help="processes")] = 1,
) -> None:
    """Renders clothed, textured people of varied shape, pose, view and light with exact ground truth."""
    from tqdm import tqdm

    from lhmforge.datasets.body.free_body import free_body_path
    from lhmforge.datasets.synthetic.clip import ClipConfig
    from lhmforge.datasets.synthetic.corpus import synthesize_clips, synthesize_corpus
    from lhmforge.datasets.synthetic.multiview import MultiviewConfig
    from lhmforge.datasets.synthetic.trial import trial_clips
    from lhmforge.datasets.synthetic.view_shards import synthesize_shards

    _check_mixture(mixture, kind, has_settings=bool(frames or motion or motion_file or persons != 1))
    width, height = parse_size(size)
    body_path = free_body_path()
    with tqdm(total=count, desc=f"rendering {kind.value}", unit="clip" if kind is Kind.videos else "person") as bar:
        if mixture is Mixture.trial:
            trial = synthesize_clips(
                trial_clips(seed, count), output, body_path, num_workers=workers, on_clip=lambda _: bar.update()
            )
            manifest, done, made = trial.manifest, trial.num_clips, trial.num_rendered
        elif kind is Kind.videos:
            config = ClipConfig(
                seed=seed, index=0, num_frames=frames or 32, fps=fps, width=width, height=height, motion=motion,
                motion_file=str(motion_file or ""), num_persons=persons,
            )  # fmt: skip
            clips = synthesize_corpus(
                config, count, output, body_path, num_workers=workers, on_clip=lambda _: bar.update()
            )
            manifest, done, made = clips.manifest, clips.num_clips, clips.num_rendered
        else:
            views = MultiviewConfig(seed=seed, num_views=frames or 30, width=width, height=height, motion=motion)
            shards = synthesize_shards(
                views, count, output, body_path, num_workers=workers, on_sample=lambda _: bar.update()
            )
            manifest, done, made = shards.manifest, shards.num_samples, shards.num_rendered
    print(f"{done} {kind.value}: {made} rendered, {done - made} kept; manifest: {manifest}")


def _check_mixture(mixture: Mixture, kind: Kind, *, has_settings: bool) -> None:
    from lhmforge.datasets.errors import ConfigError

    if mixture is Mixture.trial and (kind is not Kind.videos or has_settings):
        raise ConfigError("--mixture trial makes videos and sets frames, motion and persons itself; leave these out")


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "WIDTHxHEIGHT"; raises `ConfigError`."""
    from lhmforge.datasets.errors import ConfigError

    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"size {text!r} is not WIDTHxHEIGHT, for example 480x640")
    return int(parts[0]), int(parts[1])
