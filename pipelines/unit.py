"""One work unit from its videos to its shards and its completion record; runs alike in every executor."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lhmforge.datasets.config_json import to_json
from lhmforge.datasets.errors import AssetError, BackendError, ConfigError, StorageError
from lhmforge.datasets.manifest import QUARANTINED
from lhmforge.datasets.records import Reject
from lhmforge.datasets.threads import single_threaded
from lhmforge.datasets.track_paths import PATHS_FOLDER, SourcePath, write_paths
from lhmforge.pipelines.chain import ChainResult, chain_fingerprints, run_chain
from lhmforge.pipelines.context import BackendPool, UnitContext
from lhmforge.pipelines.corpus import CorpusItem, WorkUnit
from lhmforge.pipelines.ledger import RECORD_VERSION, Ledger, UnitAttempts, UnitRecord
from lhmforge.pipelines.likeness_files import likeness_place, write_likenesses
from lhmforge.pipelines.stage import Stage
from lhmforge.pipelines.takedown_list import withdrawn
from lhmforge.pipelines.unit_record import Outcome, ShardWriter, likenesses_of, to_record
from lhmforge.pipelines.watchdog import watchdog

_log = logging.getLogger(__name__)
DEDUP = "dedup"
# What another try cannot mend, because the fault lies in the set-up: the run stops and says so.
_RUN_STOPPERS = (AssetError, BackendError, ConfigError, StorageError)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitLimits:
    """What one video may cost, and how large a shard may grow; none of it changes what a sample holds."""

    max_attempts: int = 3
    video_timeout_s: float = 3600.0
    memory_gib: float = 12.0
    max_shard_mib: int = 512
    cache_stages: bool = True

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.video_timeout_s <= 0 or self.memory_gib <= 0 or self.max_shard_mib < 1:
            raise ConfigError(f"limits: {self}: max_attempts and max_shard_mib start at 1, the others above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTask:
    """Everything a worker needs to curate one unit."""

    unit: WorkUnit
    stages: tuple[Stage[Any, Any], ...]
    fingerprints: tuple[str, ...]  # of the chain, one per stage
    root: str
    run: str  # name of the driver's run, for the attempts
    limits: UnitLimits
    replaceable: bool = False  # the process may be ended by the watchdog

    @property
    def fingerprint(self) -> str:
        return unit_fingerprint(self.unit, self.fingerprints[-1], self.limits)


def unit_fingerprint(unit: WorkUnit, chain: str, limits: UnitLimits) -> str:
    """Covers the chain, the sources and what they duplicate, and the cut into shards; not the files' content."""
    items = [[to_json(item.source), item.duplicate_of] for item in unit.items]
    text = json.dumps([RECORD_VERSION, chain, limits.max_shard_mib, items])
    return hashlib.sha256(text.encode()).hexdigest()


def unit_tasks(
    units: Sequence[WorkUnit], stages: Sequence[Stage[Any, Any]], root: str, run: str, limits: UnitLimits
) -> Iterator[UnitTask]:
    """One task per unit; the chain's fingerprints, which may hash weight files, are computed once."""
    fingerprints = chain_fingerprints(stages)
    for unit in units:
        yield UnitTask(unit=unit, stages=tuple(stages), fingerprints=fingerprints, root=root, run=run, limits=limits)


def curate_unit(
    task: UnitTask, pools: Mapping[str, BackendPool], on_video: Callable[[str], None] | None = None
) -> UnitRecord:
    """Curates the videos of a unit in order, publishes its shards, then its completion record.

    A video that fails in any way but a reasoned reject is tried `max_attempts` times and then quarantined. Faults of
    the set-up (`ConfigError`, `BackendError`, `AssetError`, `StorageError` of the output) pass through.
    """
    started = time.monotonic()
    ledger = Ledger(task.root)
    attempts = ledger.attempts(task.unit.name, task.fingerprint)
    writer = ShardWriter(ledger, task.unit.name, task.limits.max_shard_mib << 20)
    outcomes: list[Outcome] = []
    with UnitContext(pools) as context, single_threaded():
        for item in task.unit.items:
            outcome = _curate_item(item, task, ledger, attempts, context)
            for sample in outcome.result.samples:
                writer.add(sample)
            outcomes.append(_without_members(outcome))
            if on_video is not None:
                on_video(item.source.source_id)
    writer.flush()
    write_paths(
        ledger.place(PATHS_FOLDER, f"{task.unit.name}.parquet"),
        [
            SourcePath(source_id=outcome.item.source.source_id, path=path)
            for outcome in outcomes
            for path in outcome.result.paths
        ],
    )
    likeness = write_likenesses(likeness_place(task.root, task.unit.name), likenesses_of(outcomes))
    record = to_record(
        task.unit.name,
        task.fingerprint,
        chain=task.fingerprints[-1],
        stage_names=[stage.name for stage in task.stages],
        outcomes=outcomes,
        writer=writer,
        seconds=time.monotonic() - started,
        likeness=likeness,
    )
    ledger.write_record(record)
    attempts.forget()
    return record


def _curate_item(
    item: CorpusItem, task: UnitTask, ledger: Ledger, attempts: UnitAttempts, context: UnitContext
) -> Outcome:
    source = item.source
    if item.taken_down:
        return Outcome(item, _only(withdrawn(source.source_id)), 0)
    if item.duplicate_of:
        detail = f"same bytes as {item.duplicate_of}"
        reject = Reject(key=source.source_id, source=source, stage=DEDUP, reason="duplicate_content", detail=detail)
        return Outcome(item, _only(reject), 0)
    while len(attempts.counted(source.source_id)) < task.limits.max_attempts:
        attempts.begin(source.source_id, task.run, watched=task.replaceable)
        result = _attempt(item, task, ledger, attempts, context)
        if result is not None:
            attempts.end(source.source_id, "finished")
            return Outcome(item, result, attempts.total(source.source_id))
    last = attempts.counted(source.source_id)[-1]
    reject = Reject(
        key=source.source_id,
        source=source,
        stage=last.stage or task.stages[0].name,
        reason="quarantined",
        detail=f"{task.limits.max_attempts} attempts failed; the last: {last.detail or 'its process ended'}",
    )
    return Outcome(item, _only(reject), attempts.total(source.source_id), QUARANTINED)


def _attempt(
    item: CorpusItem, task: UnitTask, ledger: Ledger, attempts: UnitAttempts, context: UnitContext
) -> ChainResult | None:
    """The result of one try, or None when it failed."""
    name = item.source.source_id
    cache = ledger if task.limits.cache_stages else None

    def run() -> ChainResult:
        return run_chain(
            item.source,
            task.stages,
            task.fingerprints,
            context,
            cache=cache,
            entering=lambda stage: attempts.enter(name, stage),
        )

    try:
        if not task.replaceable:
            return run()
        with watchdog(
            timeout_s=task.limits.video_timeout_s,
            memory_bytes=int(task.limits.memory_gib * (1 << 30)),
            last_words=lambda reason: attempts.end(name, "failed", reason),
        ):
            return run()
    except _RUN_STOPPERS:
        attempts.end(name, "interrupted")
        raise
    except Exception as error:  # noqa: BLE001 - the one broad except: whatever a video does, the others go on
        _log.warning("video %s failed at a stage:\n%s", name, traceback.format_exc())
        attempts.end(name, "failed", f"{type(error).__name__}: {error}"[:500])
        return None
    except KeyboardInterrupt:
        attempts.end(name, "interrupted")
        raise


def _only(reject: Reject) -> ChainResult:
    return ChainResult(samples=(), rejects=(reject,), counts=(), costs=(), video=None)


def _without_members(outcome: Outcome) -> Outcome:
    """The outcome with its samples' bytes dropped: the writer has them, and a unit may hold many."""
    samples = tuple(replace(sample, members=()) for sample in outcome.result.samples)
    return replace(outcome, result=replace(outcome.result, samples=samples))
