"""A curation run: what is to be done, what is done already, and the merge of the units into one manifest."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lhmforge.datasets import storage
from lhmforge.datasets.errors import StorageError
from lhmforge.datasets.manifest import ACCEPTED, QUARANTINED, ManifestRow, stream_manifest
from lhmforge.pipelines.corpus import CorpusItem, group_units, read_corpus, survey
from lhmforge.pipelines.corpus_pass import NEAR_DUPLICATE, CorpusConfig, CorpusFindings, compare_samples
from lhmforge.pipelines.executor import UnitDone, run_inline, run_isolated
from lhmforge.pipelines.ledger import Ledger, UnitRecord, VideoOutcome
from lhmforge.pipelines.likeness_files import LIKENESS_FOLDER
from lhmforge.pipelines.ray_executor import run_ray
from lhmforge.pipelines.ray_pools import PoolConfig
from lhmforge.pipelines.stage import Stage, check_chain
from lhmforge.pipelines.takedown_list import mark_withdrawn, read_list
from lhmforge.pipelines.unit import UnitLimits, UnitTask, unit_tasks

MANIFEST_NAME = "manifest.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurationPlan:
    """The units of a corpus, and which of them a completion record with intact shards shows as done."""

    root: str
    tasks: tuple[UnitTask, ...]
    done: frozenset[str]

    @property
    def todo(self) -> tuple[UnitTask, ...]:
        return tuple(task for task in self.tasks if task.unit.name not in self.done)

    @property
    def num_videos(self) -> int:
        return sum(len(task.unit.items) for task in self.tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFlow:
    """One stage over the whole run."""

    stage: str
    num_in: int
    num_out: int
    num_rejected: int
    seconds: float
    cached_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CurationSummary:
    """The result of a run; every video is either done, quarantined or taken down."""

    root: str
    manifest: str
    manifest_digest: str
    num_units: int
    num_units_resumed: int
    num_videos: int
    num_quarantined: int
    num_tracks: int
    num_accepted: int
    num_duplicate_groups: int
    num_identity_clusters: int
    rejected: tuple[tuple[str, int], ...]  # ("stage/reason", count), most frequent first
    stages: tuple[StageFlow, ...]
    videos: tuple[VideoOutcome, ...]
    num_frames: int  # of the videos that this run worked on
    seconds: float  # wall time of this run


def plan_curation(
    inputs: Sequence[str | Path],
    stages: Sequence[Stage[Any, Any]],
    root: str | Path,
    *,
    limits: UnitLimits,
    videos_per_unit: int,
) -> CurationPlan:
    """Reads the corpus and finds what is done; raises `CorpusError`, and whatever a stage's weights raise."""
    check_chain(stages)
    items = mark_withdrawn(survey(read_corpus(inputs)), read_list(str(root)))
    units = group_units(items, max_videos=videos_per_unit)
    run = uuid.uuid4().hex[:12]
    tasks = tuple(unit_tasks(units, stages, str(root), run, limits))
    return CurationPlan(root=str(root), tasks=tasks, done=_done(tasks, Ledger(root)))


def run_plan(
    plan: CurationPlan,
    *,
    workers: int,
    pools: tuple[PoolConfig, ...] = (),
    corpus: CorpusConfig | None = None,
    on_video: Callable[[str], None] | None = None,
    on_unit: Callable[[UnitDone], None] | None = None,
) -> CurationSummary:
    """Curates what is left of a plan, compares all samples as `corpus` says (None: not at all) and merges them.

    `workers`: 0 runs in this process, 1 in one replaceable child process, more (or any pool) under Ray. `on_video` is
    told each source id (not under Ray), `on_unit` each finished unit. Raises what `curate_unit` lets through.
    """
    started = time.monotonic()
    for done in _execute(plan, workers, pools, on_video):
        if on_unit is not None:
            on_unit(done)
    return merge_units(plan, corpus or CorpusConfig(near_duplicates=None, identity_clusters=None), started=started)


def _execute(
    plan: CurationPlan, workers: int, pools: tuple[PoolConfig, ...], on_video: Callable[[str], None] | None
) -> Iterator[UnitDone]:
    if not plan.todo:
        return iter(())
    if workers > 1 or pools:
        return run_ray(plan.todo, num_workers=max(workers, 1), pools=pools)
    return run_isolated(plan.todo, on_video) if workers == 1 else run_inline(plan.todo, on_video)


def merge_units(plan: CurationPlan, corpus: CorpusConfig, *, started: float) -> CurationSummary:
    """Writes the manifest of all units of a finished plan and sums up; asserts that every unit has its record.

    The records are read twice, one at a time: once to compare the samples of all units, once to write their rows.
    """
    findings = compare_samples(plan.root, _records(plan), corpus)
    tally = _Tally()
    place = storage.join_uri(plan.root, MANIFEST_NAME)
    manifest = stream_manifest(place, tally.rows(_records(plan), findings))
    assert {video.source_id for video in tally.videos} == {
        item.source.source_id for task in plan.tasks for item in task.unit.items
    }, "a video is in no completion record"
    worked_on = {item.source.source_id for task in plan.todo for item in task.unit.items}
    return CurationSummary(
        root=plan.root,
        manifest=place,
        manifest_digest=manifest.digest,
        num_units=len(plan.tasks),
        num_units_resumed=len(plan.done),
        num_videos=len(tally.videos),
        num_quarantined=sum(video.state == QUARANTINED for video in tally.videos),
        num_tracks=sum(video.num_tracks for video in tally.videos),
        num_accepted=tally.num_accepted,
        num_duplicate_groups=findings.num_duplicate_groups,
        num_identity_clusters=findings.num_identity_clusters,
        rejected=tuple(sorted(tally.rejected.items(), key=lambda pair: (-pair[1], pair[0]))),
        stages=tally.flows(),
        videos=tuple(sorted(tally.videos, key=lambda video: video.source_id)),
        num_frames=sum(video.num_frames for video in tally.videos if video.source_id in worked_on),
        seconds=time.monotonic() - started,
    )


class _Tally:
    """Sums what passes by on its way into the manifest."""

    def __init__(self) -> None:
        self.videos: list[VideoOutcome] = []
        self.num_accepted = 0
        self.rejected: Counter[str] = Counter()
        self._stages: dict[str, StageFlow] = {}

    def rows(self, records: Iterable[UnitRecord], findings: CorpusFindings) -> Iterator[ManifestRow]:
        for record in records:
            dropped: Counter[str] = Counter()
            for stored in record.rows:
                row = findings.applied(stored)
                dropped[row.source.source_id] += row.reason == NEAR_DUPLICATE
                self.num_accepted += row.status == ACCEPTED
                if row.status != ACCEPTED:
                    self.rejected[f"{row.stage}/{row.reason}"] += 1
                yield row
            self.videos += [_without(video, dropped[video.source_id]) for video in record.videos]
            for total in record.stages:
                before = self._stages.get(total.stage)
                self._stages[total.stage] = StageFlow(
                    stage=total.stage,
                    num_in=total.num_in + (before.num_in if before else 0),
                    num_out=total.num_out + (before.num_out if before else 0),
                    num_rejected=total.num_rejected + (before.num_rejected if before else 0),
                    seconds=total.seconds + (before.seconds if before else 0.0),
                    cached_seconds=total.cached_seconds + (before.cached_seconds if before else 0.0),
                )

    def flows(self) -> tuple[StageFlow, ...]:
        return tuple(self._stages.values())


def _without(video: VideoOutcome, num_dropped: int) -> VideoOutcome:
    """The video's counts after some of its samples gave way to duplicates."""
    accepted, rejected = video.num_accepted - num_dropped, video.num_rejected + num_dropped
    return replace(video, num_accepted=accepted, num_rejected=rejected)


def _records(plan: CurationPlan) -> Iterator[UnitRecord]:
    ledger = Ledger(plan.root)
    for task in plan.tasks:
        record = ledger.read_record(task.unit.name)
        assert record is not None and record.fingerprint == task.fingerprint, f"{task.unit.name} has no valid record"
        yield record


def _done(tasks: Sequence[UnitTask], ledger: Ledger) -> frozenset[str]:
    recorded = set(ledger.unit_names())
    candidates = [task for task in tasks if task.unit.name in recorded]
    if not candidates:
        return frozenset()
    sizes = ledger.shard_sizes()
    likenesses = frozenset(storage.list_files(ledger.place(LIKENESS_FOLDER)))
    with ThreadPoolExecutor(8) as pool:
        verdicts = pool.map(lambda task: _is_done(task, ledger, sizes, likenesses), candidates)
        return frozenset(task.unit.name for task, done in zip(candidates, verdicts, strict=True) if done)


def _is_done(task: UnitTask, ledger: Ledger, sizes: dict[str, int], likenesses: frozenset[str]) -> bool:
    """A record that fits, sources that did not change, shards and side files that are what the record says."""
    record = ledger.read_record(task.unit.name)
    if record is None or record.fingerprint != task.fingerprint:
        return False
    if not all(_unchanged(item, video) for item, video in zip(task.unit.items, record.videos, strict=True)):
        return False
    if record.likeness and f"{record.unit}.npz" not in likenesses:
        return False
    return all(ledger.shard_is_intact(shard, sizes) for shard in record.shards)


def _unchanged(item: CorpusItem, video: VideoOutcome) -> bool:
    """Same size and time of change; or, failing that, the same bytes."""
    assert item.source.source_id == video.source_id
    if item.taken_down or video.state == "taken_down":
        return item.taken_down and video.state == "taken_down"
    if (item.num_bytes, item.mtime_ns) == (video.num_bytes, video.mtime_ns):
        return True
    if item.num_bytes != video.num_bytes or not video.digest:
        return False
    try:
        return storage.file_digest(item.source.uri).sha256 == video.digest
    except StorageError:
        return False
