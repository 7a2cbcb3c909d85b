"""`lhmforge synthesize`: renders synthetic people, as videos with truth or as multi-view training shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lhmforge.datasets.synthetic.clip import ClipConfig
    from lhmforge.datasets.synthetic.multiview import MultiviewConfig
    from lhmforge.datasets.synthetic.scans import ScanFile
    from lhmforge.datasets.synthetic.workers import Runner


class Kind(StrEnum):
    """What to write."""

    videos = "videos"
    shards = "shards"


class Mixture(StrEnum):
    """Which clips."""

    plain = "plain"
    trial = "trial"


def synthesize(
    output: Annotated[Path, typer.Option(help="folder to write into; finished parts of an earlier call are kept")],
    count: Annotated[int, typer.Option(help="number of clips, or of persons for shards; with scans: all of them")] = 0,
    kind: Annotated[Kind, typer.Option(help="videos: clips with truth; shards: multi-view samples")] = Kind.videos,
    seed: Annotated[int, typer.Option(help="everything random follows from it")] = 0,
    frames: Annotated[int, typer.Option(help="frames per clip, or views per sample (default 32 / 30)")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels")] = "480x640",
    fps: Annotated[float, typer.Option(help="frame rate of the clips")] = 15.0,
    motion: Annotated[str, typer.Option(help="walk, dance, turn, sit or cross_arms; none: all in turn")] = "",
    motion_file: Annotated[str, typer.Option(help="AMASS / SMPL-X npz, or MANIFEST.parquet#KEY, to perform")] = "",
    persons: Annotated[int, typer.Option(help="persons per clip, 1 to 4")] = 1,
    mixture: Annotated[
        Mixture,
        typer.Option(help="trial: all motions and views, people who cross; to measure curation on (videos only)"),
    ] = Mixture.plain,
    scans: Annotated[
        Path | None, typer.Option(help="folder of textured OBJ, GLB or PLY files to render as shards instead")
    ] = None,
    scan_poses: Annotated[
        Path | None, typer.Option(help="npz with arrays NAME.FIELD of all scans; none: NAME.npz beside each")
    ] = None,
    scan_scale: Annotated[float, typer.Option(help="metres per unit of the scans, 0.01 for centimetres")] = 1.0,
    scan_up: Annotated[str, typer.Option(help="the scans' up axis: y or z")] = "y",
    workers: Annotated[int, typer.Option(help="how many at once")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="under Ray: the cluster of RAY_ADDRESS, or a local one")] = False,
) -> None:
    """Renders clothed, textured people of varied shape, pose, view and light with exact ground truth."""
    from tqdm import tqdm

    from lhmforge.datasets.synthetic.clip import ClipConfig
    from lhmforge.datasets.synthetic.multiview import MultiviewConfig
    from lhmforge.datasets.synthetic.scans import find_scans
    from lhmforge.datasets.synthetic.trial import trial_clips

    _check_mixture(mixture, kind, has_settings=bool(frames or motion or motion_file or persons != 1))
    width, height = parse_size(size)
    found = find_scans(scans, poses=scan_poses, metres_per_unit=scan_scale, up=scan_up) if scans is not None else []
    unit = "person" if kind is Kind.shards or found else "clip"
    with tqdm(total=len(found) or count, desc=f"rendering {kind.value}", unit=unit) as bar:
        call = _Call(output=output, workers=workers, ray=ray, step=lambda _: bar.update())
        if kind is Kind.shards or found:
            views = MultiviewConfig(seed=seed, num_views=frames or 30, width=width, height=height, motion=motion)
            done = call.shards(views, count, found)
        elif mixture is Mixture.trial:
            done = call.clips(trial_clips(seed, count))
        else:
            config = ClipConfig(
                seed=seed, index=0, num_frames=frames or 32, fps=fps, width=width, height=height, motion=motion,
                motion_file=motion_file, num_persons=persons,
            )  # fmt: skip
            done = call.clips([replace(config, index=index) for index in range(count)])
    kept = done.num - done.num_rendered
    print(f"{done.num} {unit}s: {done.num_rendered} rendered, {kept} kept; manifest: {done.manifest}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    num: int
    num_rendered: int
    manifest: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """Where to write and who renders; `step` is told of every finished clip or person."""

    output: Path
    workers: int
    ray: bool
    step: Callable[[str], object]

    def clips(self, configs: Sequence[ClipConfig]) -> _Done:
        from lhmforge.datasets.body.free_body import free_body_path
        from lhmforge.datasets.errors import CorpusError
        from lhmforge.datasets.synthetic.corpus import synthesize_clips

        if not configs:
            raise CorpusError("0 clips asked for; give --count, at least 1")
        made = synthesize_clips(configs, self.output, free_body_path(), run=self._runner(), on_clip=self.step)
        return _Done(num=made.num_clips, num_rendered=made.num_rendered, manifest=made.manifest)

    def shards(self, views: MultiviewConfig, count: int, scans: Sequence[ScanFile]) -> _Done:
        from lhmforge.datasets.body.free_body import free_body_path
        from lhmforge.datasets.synthetic.view_shards import synthesize_shards

        made = synthesize_shards(
            views, count, self.output, free_body_path(), scans=scans, run=self._runner(), on_sample=self.step
        )
        return _Done(num=made.num_samples, num_rendered=made.num_rendered, manifest=made.manifest)

    def _runner(self) -> Runner:
        from lhmforge.datasets.synthetic.workers import in_processes
        from lhmforge.jobs.ray_synthesis import on_ray

        return on_ray(self.workers) if self.ray else in_processes(self.workers)


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
