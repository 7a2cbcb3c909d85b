"""From the outcomes of a unit's videos to its shards, its manifest rows and its completion record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lhmforge.datasets.manifest import QUARANTINED, REJECTED, ManifestRow, accepted_row, rejected_row
from lhmforge.datasets.records import Likeness, PackedSample
from lhmforge.datasets.shards import ShardEntry, write_shard
from lhmforge.pipelines.chain import ChainResult, StageCost
from lhmforge.pipelines.corpus import CorpusItem
from lhmforge.pipelines.ledger import (
    RECORD_VERSION,
    Ledger,
    ShardRecord,
    StoredSignature,
    UnitRecord,
    VideoOutcome,
    modified_ns,
    total_by_stage,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one corpus item, before shards are known."""

    item: CorpusItem
    result: ChainResult
    attempts: int
    status: str = REJECTED  # of its rejects


@dataclass(slots=True)
class ShardWriter:
    """Collects samples in order and publishes a shard whenever the next sample would make it too large."""

    ledger: Ledger
    unit: str
    max_bytes: int
    shards: list[ShardRecord] = field(default_factory=list)
    places: dict[str, tuple[str, ShardEntry]] = field(default_factory=dict)
    _pending: list[PackedSample] = field(default_factory=list)
    _bytes: int = 0

    def add(self, sample: PackedSample) -> None:
        size = sum(len(data) for _, data in sample.members)
        if self._pending and self._bytes + size > self.max_bytes:
            self.flush()
        self._pending.append(sample)
        self._bytes += size

    def flush(self) -> None:
        if not self._pending:
            return
        name = f"{self.unit}-{len(self.shards):03d}.tar"
        place = self.ledger.place("shards", name)
        info = write_shard(place, self._pending)
        self.places.update({entry.key: (f"shards/{name}", entry) for entry in info.entries})
        self.shards.append(
            ShardRecord(
                name=name,
                sha256=info.sha256,
                num_samples=info.num_samples,
                num_bytes=info.num_bytes,
                mtime_ns=modified_ns(place),
            )
        )
        self._pending, self._bytes = [], 0


def to_record(
    unit: str,
    fingerprint: str,
    *,
    chain: str,
    stage_names: Sequence[str],
    outcomes: Sequence[Outcome],
    writer: ShardWriter,
    seconds: float,
    likeness: str = "",
) -> UnitRecord:
    """The completion record of a unit whose shards are published; `chain` is the fingerprint of its stages."""
    costs = [cost for outcome in outcomes for cost in outcome.result.costs]
    by_stage: defaultdict[tuple[str, bool], float] = defaultdict(float)
    for cost in costs:
        by_stage[cost.stage, cost.cached] += cost.seconds
    counts = [count for outcome in outcomes for count in outcome.result.counts]
    return UnitRecord(
        version=RECORD_VERSION,
        unit=unit,
        fingerprint=fingerprint,
        videos=tuple(_to_video(outcome) for outcome in outcomes),
        shards=tuple(writer.shards),
        stages=total_by_stage(stage_names, counts, by_stage),
        rows=tuple(row for outcome in outcomes for row in _to_rows(outcome, chain, writer)),
        seconds=round(seconds, 3),
        signatures=tuple(
            StoredSignature.of(sample.key, sample.signature)
            for outcome in outcomes
            for sample in outcome.result.samples
            if sample.signature is not None
        ),
        likeness=likeness,
    )


def likenesses_of(outcomes: Sequence[Outcome]) -> dict[str, Likeness]:
    """Sample key -> vectors, of the samples that have some."""
    samples = [sample for outcome in outcomes for sample in outcome.result.samples]
    return {sample.key: sample.likeness for sample in samples if sample.likeness is not None}


def _to_video(outcome: Outcome) -> VideoOutcome:
    result = outcome.result
    return VideoOutcome(
        source_id=outcome.item.source.source_id,
        state=_state(outcome),
        digest=result.video.digest if result.video else "",
        num_frames=result.video.num_frames if result.video else 0,
        duration_s=result.video.duration_s if result.video else 0.0,
        num_bytes=outcome.item.num_bytes,
        mtime_ns=outcome.item.mtime_ns,
        num_tracks=sum(count.num_out for count in result.counts if count.stage == "track"),
        num_accepted=len(result.samples),
        num_rejected=len(result.rejects),
        attempts=outcome.attempts,
        seconds=round(sum((cost.seconds for cost in result.costs if not cost.cached), 0.0), 3),
    )


def _state(outcome: Outcome) -> Literal["done", "quarantined", "taken_down"]:
    if outcome.item.taken_down:
        return "taken_down"
    return "quarantined" if outcome.status == QUARANTINED else "done"


def _to_rows(outcome: Outcome, chain: str, writer: ShardWriter) -> list[ManifestRow]:
    result = outcome.result
    keys = [sample.key for sample in result.samples] + [reject.key for reject in result.rejects]
    shares = _share_costs(keys, result.costs)
    rows = []
    for sample, cost_s in zip(result.samples, shares, strict=False):
        shard, entry = writer.places[sample.key]
        rows.append(
            accepted_row(sample, shard=shard, entry=entry, fingerprint=chain, cost_s=cost_s, attempts=outcome.attempts)
        )
    for reject, cost_s in zip(result.rejects, shares[len(result.samples) :], strict=True):
        rows.append(
            rejected_row(
                reject,
                fingerprint=chain,
                cost_s=cost_s,
                attempts=outcome.attempts,
                video_digest=result.video.digest if result.video else "",
                status=outcome.status,
            )
        )
    return rows


def _share_costs(keys: Sequence[str], costs: Sequence[StageCost]) -> list[dict[str, float]]:
    """Seconds per stage for each row: what was spent on a record is shared by the rows that descend from it.

    Keys of later records begin with those of the earlier ones, except for the source's; shares add up to the total.
    """
    shares: list[dict[str, float]] = [{} for _ in keys]
    for cost in costs:
        heirs = [i for i, key in enumerate(keys) if key.startswith(cost.key)] or list(range(len(keys)))
        for i in heirs:
            shares[i][cost.stage] = shares[i].get(cost.stage, 0.0) + cost.seconds / len(heirs)
    return shares
