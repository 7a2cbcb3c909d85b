"""Curation as a job: the config of a whole run, the named recipes, and the run from inputs to manifest and report."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lhmforge.datasets import storage
from lhmforge.datasets.codecs import encode_json
from lhmforge.datasets.config_json import fingerprint, from_json, to_json
from lhmforge.datasets.errors import ConfigError, ForgeError
from lhmforge.jobs.recipes import read_json
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.corpus import is_remote
from lhmforge.pipelines.corpus_pass import CorpusConfig
from lhmforge.pipelines.curation import CurationPlan, CurationSummary, plan_curation, run_plan
from lhmforge.pipelines.executor import UnitDone
from lhmforge.pipelines.ray_pools import PoolConfig
from lhmforge.pipelines.stage import Stage
from lhmforge.pipelines.stages.fit import FitStage
from lhmforge.pipelines.stages.gate import GateStage
from lhmforge.pipelines.stages.keypoints import KeypointsStage
from lhmforge.pipelines.stages.matte import MatteStage
from lhmforge.pipelines.stages.pack import PackStage
from lhmforge.pipelines.stages.probe import ProbeStage
from lhmforge.pipelines.stages.shots import ShotsStage
from lhmforge.pipelines.stages.track import TrackStage
from lhmforge.pipelines.unit import UnitLimits

_log = logging.getLogger(__name__)
CONFIG_NAME = "curation.json"
_LOCK_NAME = ".curation.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateConfig:
    """Everything that decides a curation: its stages in order, limits per video, and how it is cut into units."""

    probe: ProbeStage = field(default_factory=ProbeStage)
    shots: ShotsStage = field(default_factory=ShotsStage)
    track: TrackStage = field(default_factory=TrackStage)
    matte: MatteStage = field(default_factory=MatteStage)
    keypoints: KeypointsStage = field(default_factory=KeypointsStage)
    fit: FitStage = field(default_factory=FitStage)
    gate: GateStage = field(default_factory=GateStage)
    pack: PackStage = field(default_factory=PackStage)
    limits: UnitLimits = field(default_factory=UnitLimits)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    videos_per_unit: int = 4
    pools: tuple[PoolConfig, ...] = ()  # roles that live in actors of their own, under Ray

    def __post_init__(self) -> None:
        if self.videos_per_unit < 1:
            raise ConfigError(f"videos_per_unit is {self.videos_per_unit}; it must be at least 1")
        if self.fit.body != self.gate.body:
            raise ConfigError(
                f"fit.body {self.fit.body!r} and gate.body {self.gate.body!r} must name the same body file"
            )

    @property
    def stages(self) -> tuple[Stage[Any, Any], ...]:
        """The chain."""
        chain = (self.probe, self.shots, self.track, self.matte, self.keypoints, self.fit, self.gate, self.pack)
        return chain

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name this configuration."""
        return fingerprint(self)


def default_recipe() -> CurateConfig:
    """The embedded backends on CPU, settings as the stages have them."""
    return CurateConfig()


def demo_recipe() -> CurateConfig:
    """The default with fewer frames per second and small units, for minutes on two cores."""
    return CurateConfig(track=TrackStage(sample_fps=7.5), videos_per_unit=2)


def fake_recipe() -> CurateConfig:
    """Deterministic stand-ins for all models, and a gate that lets their crude annotations pass; for tests."""
    fake = BackendSpec(name="fake")
    return CurateConfig(
        shots=ShotsStage(detector=fake),
        track=TrackStage(detector=fake, tracker=fake, face=fake, sample_fps=8.0, min_frames=4),
        matte=MatteStage(backend=fake),
        keypoints=KeypointsStage(backend=fake, isolate=False),
        pack=PackStage(face=fake),
        gate=GateStage(min_frames=3, max_reprojection=0.2, min_matte_iou=0.1, max_jitter=1.0, min_sharpness=0.0),
        videos_per_unit=2,
    )


RECIPES = {"default": default_recipe, "demo": demo_recipe, "fake": fake_recipe}


def curate_recipe(name: str) -> CurateConfig:
    """The recipe of a name; raises `ConfigError` that lists the known ones."""
    if name not in RECIPES:
        raise ConfigError(f"no curation recipe is named {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]()


def load_curate_config(path: Path, base: CurateConfig) -> CurateConfig:
    """A config file laid over `base`: it holds what differs, in the form that `curation.json` has.

    Raises `ConfigError` naming an unknown key and the valid ones, or a value of the wrong type.
    """
    changes = read_json(path)
    if not isinstance(changes, dict):
        raise ConfigError(f"{path}: expected an object with the fields of CurateConfig")
    merged = _merge(to_json(base), changes)
    return from_json(CurateConfig, merged, where=str(path))


def plan(config: CurateConfig, inputs: Sequence[str | Path], output: str | Path) -> CurationPlan:
    """What a run would do; writes nothing."""
    return plan_curation(inputs, config.stages, output, limits=config.limits, videos_per_unit=config.videos_per_unit)


def run_curation(
    config: CurateConfig, inputs: Sequence[str | Path], output: str | Path, workers: int = 1, *, progress: bool = True
) -> CurationSummary:
    """Curates `inputs` into `output`, going on from whatever an earlier run left there, and writes the report.

    `workers`: 0 in this process, 1 in one replaceable child process, more under Ray (the cluster that RAY_ADDRESS
    names, or a local one). Raises `CorpusError`, `ConfigError`, `BackendError`, `AssetError` or `StorageError`; a bad
    video is a row of the manifest, not an error.
    """
    with exclusive(output):
        planned = plan(config, inputs, output)
        content = encode_json({"config": to_json(config), "inputs": [str(place) for place in inputs]})
        storage.publish(storage.join_uri(output, CONFIG_NAME), (content,))
        if workers > 1 or config.pools:
            from lhmforge.jobs.ray_session import ensure_ray

            ensure_ray(max(workers, 1))
        summary = _run_with_bar(planned, workers, config, progress=progress)
        write_run_report(output, config)
    return summary


def _run_with_bar(planned: CurationPlan, workers: int, config: CurateConfig, *, progress: bool) -> CurationSummary:
    """Counts videos as they end where the executor tells, else as their units end."""
    sizes = {task.unit.name: len(task.unit.items) for task in planned.tasks}
    done_before = sum(sizes[name] for name in planned.done)
    seen: set[str] = set()
    counts_videos = workers <= 1 and not config.pools
    with tqdm(total=planned.num_videos, initial=done_before, unit="video", desc="curate", disable=not progress) as bar:

        def on_video(source_id: str) -> None:
            if source_id not in seen:  # a unit that is tried again tells of its videos again
                seen.add(source_id)
                bar.update()

        def on_unit(done: UnitDone) -> None:
            bar.update(0 if counts_videos else done.num_videos)

        return run_plan(
            planned, workers=workers, pools=config.pools, corpus=config.corpus, on_video=on_video, on_unit=on_unit
        )


def write_run_report(output: str | Path, config: CurateConfig) -> None:
    """Writes the QA report of a finished run."""
    from lhmforge.datasets.body.resolve import body_path
    from lhmforge.pipelines.chain import chain_fingerprints
    from lhmforge.pipelines.qa.report import ReportConfig, write_report

    places = [stage.name for stage in config.stages]
    fit = chain_fingerprints(config.stages)[places.index(config.fit.name)]
    write_report(output, ReportConfig(body_file=body_path(config.fit.body or None), fit_fingerprint=fit))


@contextlib.contextmanager
def exclusive(output: str | Path) -> Iterator[None]:
    """Keeps a second run on this machine out of the folder; the lock goes with the process, however that ends."""
    if is_remote(str(output)):
        yield
        return
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK_NAME).open("w")
    except OSError as error:
        raise ConfigError(f"output {output} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ForgeError(f"another curation is running in {output}; wait for it or end it") from None
        yield


def _merge(base: Any, changes: Any) -> Any:
    """JSON objects are merged key by key; every other value of `changes` replaces."""
    if isinstance(base, dict) and isinstance(changes, dict):
        return {**base, **{name: _merge(base.get(name), value) for name, value in changes.items()}}
    return changes
