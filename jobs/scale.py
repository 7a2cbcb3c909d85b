"""A data-scaling study: nested subsets, one training run per point, one fixed set of held-out people.

The study's folder holds `plan.json` (written before anything is trained), `subsets/`, `points/NAME/` (one run folder
per point), `mlflow.db` and `report.html`. Every step can be repeated: finished points are not trained again.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from lhmforge.datasets import storage
from lhmforge.datasets.config_json import differences, fingerprint, from_json, to_json
from lhmforge.datasets.errors import ConfigError, ForgeError
from lhmforge.datasets.splits import leakage_report
from lhmforge.datasets.subsets import Subset, nested_subset
from lhmforge.jobs.config import TrainConfig
from lhmforge.jobs.run_record import RunFolder, RunRecord, load_record
from lhmforge.jobs.scaling_law import expected_exponent_width
from lhmforge.jobs.tracking import TrackedRun, local_target
from lhmforge.jobs.train import run_training
from lhmforge.jobs.training_data import TrainingData, choose_data

_log = logging.getLogger(__name__)
FEW_CLIPS = 30_000  # below this, three seeds are affordable and needed

Compute = Literal["equal_steps", "equal_epochs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """What is compared: `train` is the run of every point but for its subset, seed and (equal epochs) steps."""

    train: TrainConfig
    sizes: tuple[int, ...]  # unique training clips, ascending
    seeds_per_size: tuple[int, ...]
    compute: Compute
    epochs: float | None = None  # for equal_epochs
    relative_noise: float = 0.015  # assumed spread of the error between seeds, for the plan's forecast

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise ConfigError(f"sizes: {list(self.sizes)} must be positive, ascending and distinct")
        if len(self.seeds_per_size) != len(self.sizes) or min(self.seeds_per_size) < 1:
            raise ConfigError(
                f"seeds: {list(self.seeds_per_size)} must give at least 1 for each of {len(self.sizes)} sizes"
            )
        if (self.compute == "equal_epochs") != (self.epochs is not None):
            raise ConfigError("epochs: give them with equal_epochs and only then")

    @property
    def fingerprint(self) -> str:
        points = (self.train.fingerprint, list(self.sizes), list(self.seeds_per_size), self.compute, self.epochs)
        return fingerprint(points)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPoint:
    """One run of the study."""

    size: int
    seed: int
    config: TrainConfig

    @property
    def name(self) -> str:
        return f"clips_{self.size:06d}_seed_{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """What a study will do, fixed before it starts; `seconds_per_step` is None when it is not known yet."""

    config: StudyConfig
    manifest_digest: str
    evaluation_digest: str
    curation_fingerprints: tuple[str, ...]
    num_pool: int
    num_eval_clips: int
    subset_digests: tuple[str, ...]
    steps: tuple[int, ...]  # per size
    epochs: tuple[float, ...]  # per size
    expected_exponent_width: float | None  # None: fewer than three sizes
    seconds_per_step: float | None

    @property
    def total_steps(self) -> int:
        return sum(n * seeds for n, seeds in zip(self.steps, self.config.seeds_per_size, strict=True))

    @property
    def predicted_seconds(self) -> float | None:
        return None if self.seconds_per_step is None else self.seconds_per_step * self.total_steps


def default_sizes(available: int, count: int = 7) -> tuple[int, ...]:
    """Up to `count` log-spaced sizes over two decades that end at all available clips."""
    spaced = np.geomspace(max(1, available / 100), available, count)
    return tuple(sorted({max(1, round(size)) for size in spaced}))


def default_seeds(sizes: Sequence[int]) -> tuple[int, ...]:
    """Three seeds below `FEW_CLIPS` clips, one above."""
    return tuple(3 if size < FEW_CLIPS else 1 for size in sizes)


def study_points(config: StudyConfig) -> list[StudyPoint]:
    """All runs, smallest size first."""
    return [
        StudyPoint(size=size, seed=seed, config=_point_config(config, size, seed))
        for size, num_seeds in zip(config.sizes, config.seeds_per_size, strict=True)
        for seed in range(num_seeds)
    ]


def plan_study(config: StudyConfig, output: Path, *, seconds_per_step: float | None = None) -> StudyPlan:
    """Fixes the held-out people and the nested subsets, forecasts the result's width and cost, and writes it all.

    Raises `ConfigError` when `output` holds the plan of another study, `ShardError` when the data does not suffice.
    """
    data = choose_data(config.train.data)
    plan = _make_plan(config, data, seconds_per_step)
    before = load_plan(output)
    if before is not None:
        changed = differences(
            replace(before, seconds_per_step=None), replace(plan, seconds_per_step=None), where="plan"
        )
        changed = [line for line in changed if ".hardware." not in line and ".manifest:" not in line]
        if changed:
            raise ConfigError(f"{output} holds another study: {'; '.join(changed[:6])}")
        plan = replace(plan, seconds_per_step=seconds_per_step or before.seconds_per_step)
    for size in config.sizes:
        _subset(data, config, size).save(output / "subsets" / f"clips_{size:06d}.json")
    leakage_report(data.manifest, train_ids=data.pool_ids, eval_ids=data.eval_ids).save(output / "leakage.json")
    storage.publish(_plan_path(output), (json.dumps(to_json(plan), indent=1).encode() + b"\n",))
    return plan


def load_plan(output: Path) -> StudyPlan | None:
    """The plan in a study's folder, if there is one."""
    path = _plan_path(output)
    return from_json(StudyPlan, json.loads(path.read_text()), where=str(path)) if path.is_file() else None


def run_study(plan: StudyPlan, output: Path, *, tracking_uri: str | None = None) -> dict[str, str]:
    """Trains every point that has no record yet; returns the error of each point that failed, by name.

    A point that fails for a reason the user can fix does not stop the others.
    """
    target = local_target(output, experiment="lhmforge-studies", uri=tracking_uri)
    parent = TrackedRun(target, run_id=f"study-{plan.config.fingerprint}@{output.resolve()}", name=output.name)
    parent.params({"study": to_json(plan.config), "fingerprint": plan.config.fingerprint})
    failures: dict[str, str] = {}
    for point in study_points(plan.config):
        try:
            record = run_training(
                point.config,
                point_folder(output, point).root,
                resume=True,
                tracking=replace(target, parent=parent.mlflow_id),
                name=point.name,
            )
        except ForgeError as error:
            _log.error("%s failed: %s", point.name, error)
            failures[point.name] = str(error)
            continue
        parent.metrics(point.size, {f"{name}_seed{point.seed}": value for name, value in record.metrics.items()})
    parent.finish(failed=bool(failures))
    return failures


def study_records(plan: StudyPlan, output: Path) -> list[RunRecord]:
    """Records of the points that are finished."""
    records = [load_record(point_folder(output, point).record) for point in study_points(plan.config)]
    return [record for record in records if record is not None]


def point_folder(output: Path, point: StudyPoint) -> RunFolder:
    return RunFolder(output / "points" / point.name)


def _make_plan(config: StudyConfig, data: TrainingData, seconds_per_step: float | None) -> StudyPlan:
    if config.sizes[-1] > len(data.pool_ids):
        raise ConfigError(
            f"sizes: {config.sizes[-1]} clips asked for, {len(data.pool_ids)} are there to train on "
            f"({len(data.eval_ids)} clips of {config.train.data.num_eval} identities are held out)"
        )
    points = [_point_config(config, size, 0) for size in config.sizes]
    steps = tuple(point.loop.num_steps for point in points)
    batch = config.train.loop.global_batch_size
    width = expected_exponent_width(config.sizes, config.seeds_per_size, relative_noise=config.relative_noise)
    return StudyPlan(
        config=config,
        manifest_digest=data.manifest.digest,
        evaluation_digest=data.eval_digest,
        curation_fingerprints=data.curation_fingerprints,
        num_pool=len(data.pool_ids),
        num_eval_clips=len(data.eval_ids),
        subset_digests=tuple(_subset(data, config, size).digest for size in config.sizes),
        steps=steps,
        epochs=tuple(count * batch / size for count, size in zip(steps, config.sizes, strict=True)),
        expected_exponent_width=width if math.isfinite(width) else None,
        seconds_per_step=seconds_per_step,
    )


def _point_config(config: StudyConfig, size: int, seed: int) -> TrainConfig:
    """The template with its subset, its seed and a schedule that fits its horizon."""
    train = config.train
    num_steps = train.loop.num_steps
    if config.epochs is not None:
        num_steps = max(1, math.ceil(config.epochs * size / train.loop.global_batch_size))
    shrink = num_steps / train.loop.num_steps
    return replace(
        train,
        data=replace(train.data, subset_size=size),
        loader=replace(train.loader, seed=seed),
        optim=replace(train.optim, warmup_steps=round(train.optim.warmup_steps * min(1.0, shrink))),
        loop=replace(train.loop, num_steps=num_steps),
        seed=seed,
    )


def _subset(data: TrainingData, config: StudyConfig, size: int) -> Subset:
    chosen = config.train.data
    return nested_subset(data.manifest, size, chosen.subset_key, stratify=chosen.stratify, within=data.pool_ids)


def _plan_path(output: Path) -> Path:
    return output / "plan.json"
