"""The chain of stages over one video: records in, samples and rejects out, with counts, costs and the stage cache.

The outputs of the expensive stages are kept per video under the fingerprint of everything that decides them. A run
starts behind the last stage whose fingerprint still holds, so a changed fit setting leaves tracking and matting alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from lhmforge.datasets.errors import ShardError, StorageError, VideoError
from lhmforge.datasets.records import PackedSample, Reject, SourceVideo, Track, TrackPath, Video
from lhmforge.pipelines.record_codec import decode_records, encode_records
from lhmforge.pipelines.stage import Stage, StageContext, stage_fingerprint

CACHED_STAGES = frozenset({"shots", "track", "matte", "keypoints", "fit"})


@dataclass(frozen=True, slots=True)
class StageCount:
    """How many records one stage was given, passed on and turned down."""

    stage: str
    num_in: int
    num_out: int
    num_rejected: int


@dataclass(frozen=True, slots=True)
class StageCost:
    """Seconds that a stage spent on one record; `cached` seconds were spent by an earlier run."""

    stage: str
    key: str
    seconds: float
    cached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainResult:
    """What became of one video."""

    samples: tuple[PackedSample, ...]
    rejects: tuple[Reject, ...]
    counts: tuple[StageCount, ...]
    costs: tuple[StageCost, ...]
    video: Video | None  # None when the probe turned the source down
    paths: tuple[TrackPath, ...] = ()  # of all tracks, whatever became of them


@runtime_checkable
class StageCache(Protocol):
    """Bytes per stage, fingerprint and video; `get` gives None for what is not there."""

    def get(self, stage: str, fingerprint: str, video_digest: str) -> bytes | None: ...

    def put(self, stage: str, fingerprint: str, video_digest: str, data: bytes) -> None: ...


@dataclass(slots=True)
class _State:
    records: list[Any]
    rejects: list[Reject] = field(default_factory=list)
    counts: list[StageCount] = field(default_factory=list)
    costs: list[StageCost] = field(default_factory=list)
    paths: list[TrackPath] = field(default_factory=list)


def chain_fingerprints(stages: Sequence[Stage[Any, Any]]) -> tuple[str, ...]:
    """One fingerprint per stage, each covering the stage and all before it."""
    found: list[str] = []
    for stage in stages:
        found.append(stage_fingerprint(stage, found[-1] if found else ""))
    return tuple(found)


def run_chain(
    source: SourceVideo,
    stages: Sequence[Stage[Any, Any]],
    fingerprints: Sequence[str],
    context: StageContext,
    *,
    cache: StageCache | None,
    entering: Callable[[str], None],
) -> ChainResult:
    """Runs one video through all stages, the first of which is the probe.

    `entering` is told the name of each stage before it starts. A `VideoError` or unreadable source inside a stage ends
    the record at hand with a reject; every other exception passes through.
    """
    entering(stages[0].name)
    state = _apply(stages[0], _State([source]), context)
    video = state.records[0] if state.records else None
    assert video is None or isinstance(video, Video), "the first stage must probe"
    start = 1
    if cache is not None and video is not None:
        start, state = _newest(stages, fingerprints, cache, video, state)
    for stage, fingerprint in zip(stages[start:], fingerprints[start:], strict=True):
        entering(stage.name)
        state = _apply(stage, state, context)
        if cache is not None and video is not None and stage.name in CACHED_STAGES:
            cache.put(stage.name, fingerprint, video.digest, _encode(state, source))
    return ChainResult(
        samples=tuple(state.records),
        rejects=tuple(state.rejects),
        counts=tuple(state.counts),
        costs=tuple(state.costs),
        video=video,
        paths=tuple(state.paths),
    )


def _newest(
    stages: Sequence[Stage[Any, Any]],
    fingerprints: Sequence[str],
    cache: StageCache,
    video: Video,
    probed: _State,
) -> tuple[int, _State]:
    """Index of the first stage that must run, and the state before it."""
    for index in reversed(range(1, len(stages))):
        if stages[index].name not in CACHED_STAGES:
            continue
        data = cache.get(stages[index].name, fingerprints[index], video.digest)
        if data is None:
            continue
        try:
            return index + 1, _with_probe(_decode(data, video.source), probed)
        except ShardError:  # a torn or older entry is as good as none
            continue
    return 1, probed


def _with_probe(cached: _State, probed: _State) -> _State:
    """The cached state with this run's probe, which always runs, in place of the one that was stored."""
    counts = [*probed.counts, *(count for count in cached.counts if count.stage != probed.counts[0].stage)]
    costs = [*probed.costs, *(cost for cost in cached.costs if cost.stage != probed.counts[0].stage)]
    return replace(cached, counts=counts, costs=costs)


def _apply(stage: Stage[Any, Any], before: _State, context: StageContext) -> _State:
    after = _State([], before.rejects, before.counts, before.costs, before.paths)
    rejected = 0
    for record in before.records:
        key = record.source_id if isinstance(record, SourceVideo) else record.key
        started = time.perf_counter()
        for produced in _guarded(stage, record, context):
            if isinstance(produced, Reject):
                after.rejects.append(produced)
                after.paths += [] if produced.path is None else [produced.path]
                rejected += 1
            else:
                assert isinstance(produced, stage.produces), f"{stage.name} yielded a {type(produced).__name__}"
                after.records.append(produced)
                after.paths += [produced.path] if isinstance(produced, Track) else []
        after.costs.append(StageCost(stage.name, key, time.perf_counter() - started, False))
    after.counts.append(StageCount(stage.name, len(before.records), len(after.records), rejected))
    return after


def _guarded(stage: Stage[Any, Any], record: Any, context: StageContext) -> Iterator[Any]:
    """The stage's outputs, all or none: after a decoding error, the record ends in one reject."""
    try:
        yield from list(stage(record, context))
    except (VideoError, StorageError) as error:
        reason = error.reason if isinstance(error, VideoError) else "unreadable"
        key = record.source_id if isinstance(record, SourceVideo) else record.key
        yield Reject(key=key, source=source_of(record), stage=stage.name, reason=reason, detail=str(error))


def source_of(record: Any) -> SourceVideo:
    """The source that a record of any stage comes from."""
    for name in ("fitted", "keypointed", "matted", "track", "clip", "video", "source"):
        if isinstance(record, SourceVideo):
            break
        record = getattr(record, name, record)
    assert isinstance(record, SourceVideo)
    return record


def _encode(state: _State, source: SourceVideo) -> bytes:
    counts = tuple((c.stage, c.num_in, c.num_out, c.num_rejected) for c in state.counts)
    costs = tuple((c.stage, c.key, c.seconds) for c in state.costs)
    content = [tuple(state.records), tuple(state.rejects), counts, costs, tuple(state.paths)]
    return encode_records(content, source=source)


def _decode(data: bytes, source: SourceVideo) -> _State:
    parts = decode_records(data, source=source)
    if len(parts) != 5:
        raise ShardError(f"a cache entry of {len(parts)} parts; this program writes 5")
    found, rejects, counts, costs, paths = parts
    return _State(
        list(found),
        list(rejects),
        [StageCount(*count) for count in counts],
        [StageCost(stage, key, seconds, True) for stage, key, seconds in costs],
        list(paths),
    )
