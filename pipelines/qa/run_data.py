"""What a finished curation run left behind, read back for its report: manifest rows and unit records."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from lhmforge.datasets import storage
from lhmforge.datasets.manifest import QUARANTINED, Manifest
from lhmforge.pipelines.corpus_pass import NEAR_DUPLICATE
from lhmforge.pipelines.ledger import Ledger, StageTotal, VideoOutcome
from lhmforge.pipelines.takedown_list import REASON


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonCount:
    """How often a reason ended a record."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FunnelStep:
    """One stage of the funnel: records in, out and ended there; a stage may make several records of one."""

    stage: str
    num_in: int
    num_out: int
    reasons: tuple[ReasonCount, ...]
    seconds: float
    cached_seconds: float

    @property
    def num_rejected(self) -> int:
        return sum(reason.count for reason in self.reasons)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """A run: its manifest, its videos' terminal states, and its stages in order (none when no unit record exists)."""

    manifest: Manifest
    videos: tuple[VideoOutcome, ...]
    funnel: tuple[FunnelStep, ...]
    discrepancies: tuple[str, ...]  # sentences; empty when every count adds up


def read_run(output_dir: str | Path) -> RunData:
    """Reads a run; raises `ShardError` when its manifest is missing or altered."""
    manifest = Manifest.load(storage.join_uri(output_dir, "manifest.parquet"))
    ledger = Ledger(output_dir)
    records = [record for name in ledger.unit_names() if (record := ledger.read_record(name)) is not None]
    totals = _sum_stages([stage for record in records for stage in record.stages])
    videos = tuple(video for record in records for video in record.videos)
    funnel = _funnel(manifest, totals, videos)
    return RunData(
        manifest=manifest, videos=videos, funnel=funnel, discrepancies=tuple(_discrepancies(manifest, videos, funnel))
    )


def _sum_stages(stages: list[StageTotal]) -> list[StageTotal]:
    names = list(dict.fromkeys(stage.stage for stage in stages))
    groups = [[stage for stage in stages if stage.stage == name] for name in names]
    return [
        StageTotal(
            stage=group[0].stage,
            num_in=sum(stage.num_in for stage in group),
            num_out=sum(stage.num_out for stage in group),
            num_rejected=sum(stage.num_rejected for stage in group),
            seconds=sum(stage.seconds for stage in group),
            cached_seconds=sum(stage.cached_seconds for stage in group),
        )
        for group in groups
    ]


def _funnel(manifest: Manifest, totals: list[StageTotal], videos: tuple[VideoOutcome, ...]) -> tuple[FunnelStep, ...]:
    """A step for videos that never entered (duplicates, quarantined), the stages, and what ended samples afterwards."""
    if not totals:
        return ()
    rejected, names = manifest.rejected(), [total.stage for total in totals]
    withdrawn = [video for video in videos if video.state == "taken_down" and video.attempts > 0]
    later = (rejected["reason"] == NEAR_DUPLICATE) | rejected["source_id"].isin([v.source_id for v in withdrawn])
    never_in = ~later & (~rejected["stage"].isin(names) | (rejected["status"] == QUARANTINED))
    steps = [_step("corpus", len(videos), totals[0].num_in, rejected["reason"][never_in])]
    inside = rejected[~never_in & ~later]
    for total in totals:
        reasons = inside["reason"][inside["stage"] == total.stage]
        step = _step(total.stage, total.num_in, total.num_out, reasons)
        steps.append(replace(step, seconds=total.seconds, cached_seconds=total.cached_seconds))
    num_left = totals[-1].num_out
    if withdrawn:  # the units' counts are of the time before
        gone = sum(video.num_accepted for video in withdrawn)
        steps.append(_step("takedown", num_left, num_left - gone, rejected["reason"][rejected["reason"] == REASON]))
        num_left -= gone
    alike = rejected["reason"][rejected["reason"] == NEAR_DUPLICATE]
    if len(alike):
        steps.append(_step("dedup", num_left, num_left - len(alike), alike))
    return tuple(steps)


def _step(stage: str, num_in: int, num_out: int, reasons: pd.Series) -> FunnelStep:
    counts = _reasons(list(reasons))
    return FunnelStep(stage=stage, num_in=num_in, num_out=num_out, reasons=counts, seconds=0.0, cached_seconds=0.0)


def _reasons(reasons: list[str]) -> tuple[ReasonCount, ...]:
    counts = {reason: reasons.count(reason) for reason in set(reasons)}
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(ReasonCount(reason=reason, count=count) for reason, count in ordered)


def _discrepancies(manifest: Manifest, videos: tuple[VideoOutcome, ...], funnel: tuple[FunnelStep, ...]) -> list[str]:
    if not funnel:
        return []
    found = []
    for before, after in itertools.pairwise(funnel):
        if before.num_out != after.num_in:
            found.append(f"{before.stage} passed {before.num_out} records on, {after.stage} got {after.num_in}")
    if funnel[0].num_in != funnel[0].num_out + funnel[0].num_rejected:
        found.append(f"{funnel[0].num_in} videos, but {funnel[0].num_out} entered and {funnel[0].num_rejected} did not")
    turned_down, accepted = len(manifest.rejected()), len(manifest.accepted())
    num_alike = int((manifest.frame["reason"] == NEAR_DUPLICATE).sum())
    if (in_funnel := sum(step.num_rejected for step in funnel)) != turned_down:
        found.append(f"the funnel ends {in_funnel} records, the manifest lists {turned_down}")
    if funnel[-1].num_out != accepted:
        found.append(f"the last stage passed {funnel[-1].num_out} samples on, the manifest lists {accepted}")
    counted = sum(video.num_accepted for video in videos if video.state != "taken_down") - num_alike
    if counted != accepted:
        found.append(f"the videos count {counted} samples, the manifest lists {accepted}")
    return found
