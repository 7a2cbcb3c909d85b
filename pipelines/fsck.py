"""Checks a run's output folder against its completion records, and repairs it by removing what cannot be trusted.

What is removed is done again by the next run, out of the stage cache where that holds.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.shards import iter_shard
from lhmforge.datasets.storage import TEMPORARY_PREFIX
from lhmforge.pipelines.ledger import Ledger, UnitRecord

FindingKind: TypeAlias = Literal[
    "torn", "orphaned", "duplicate", "missing", "altered", "unreadable_record", "half_written", "overlapping_unit"
]
_SHARD_FORM = re.compile(r"(?P<unit>.+)-\d{3,}\.tar")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as the records say; `unit` is queued again by a repair (empty: none is)."""

    kind: FindingKind
    place: str  # below the output folder
    unit: str
    detail: str


def check_folder(root: str | Path, *, current_units: frozenset[str] | None = None) -> list[Finding]:
    """All findings, sorted by place; every shard is read and hashed.

    With the names of the units that the present inputs and config give, records of other units are orphans too.
    """
    ledger = Ledger(root)
    findings: list[Finding] = []
    records: list[UnitRecord] = []
    for unit in ledger.unit_names():
        record = ledger.read_record(unit)
        place = f"units/{unit}.json"
        if record is None:
            detail = "not a readable completion record"
            findings.append(Finding(kind="unreadable_record", place=place, unit=unit, detail=detail))
        elif current_units is not None and unit not in current_units:
            findings.append(Finding(kind="orphaned", place=place, unit=unit, detail="no such unit in the present run"))
        else:
            records.append(record)
    findings += _check_shards(ledger, records)
    findings += _check_overlaps(records)
    findings += _check_leftovers(ledger)
    return sorted(findings, key=lambda finding: (finding.place, finding.kind))


def repair_folder(root: str | Path, findings: list[Finding]) -> tuple[str, ...]:
    """Removes what was found and the records of the units concerned; returns the units that the next run will redo."""
    ledger = Ledger(root)
    for finding in findings:
        if finding.kind != "missing":
            storage.remove(ledger.place(*finding.place.split("/")))
    queued = sorted({finding.unit for finding in findings if finding.unit})
    for unit in queued:
        storage.remove(ledger.place("units", f"{unit}.json"))
    return tuple(queued)


def _check_shards(ledger: Ledger, records: list[UnitRecord]) -> Iterator[Finding]:
    sizes = ledger.shard_sizes()
    expected = {shard.name: (record, shard) for record in records for shard in record.shards}
    for name in sorted(set(expected) | {n for n in sizes if not n.startswith(TEMPORARY_PREFIX)}):
        place = f"shards/{name}"
        if name not in expected:
            match = _SHARD_FORM.fullmatch(name)
            detail = f"no completion record names it{'' if match else '; not a name that curation gives'}"
            yield Finding(kind="orphaned", place=place, unit="", detail=detail)
            continue
        record, shard = expected[name]
        if name not in sizes:
            yield Finding(kind="missing", place=place, unit=record.unit, detail=f"named by {record.unit}")
        elif not ledger.shard_is_intact(shard, sizes, rehash=True):
            kind: FindingKind = "altered" if _is_whole(ledger.place("shards", name)) else "torn"
            detail = f"{sizes[name]} bytes, sha256 differs from the record's ({shard.num_bytes} bytes)"
            yield Finding(kind=kind, place=place, unit=record.unit, detail=detail)


def _is_whole(place: str) -> bool:
    try:
        return sum(1 for _ in iter_shard(place)) > 0
    except ShardError:
        return False


def _check_overlaps(records: list[UnitRecord]) -> Iterator[Finding]:
    """A sample or a video in two units: the same data would count twice."""
    seen: defaultdict[tuple[str, str], list[UnitRecord]] = defaultdict(list)
    for record in records:
        for video in record.videos:
            seen["video", video.source_id].append(record)
        for row in record.rows:
            if row.shard:
                seen["sample", row.key].append(record)
    for (what, name), holders in sorted(seen.items()):
        for extra in holders[1:]:
            kind: FindingKind = "duplicate" if what == "sample" else "overlapping_unit"
            detail = f"{what} {name} is in {holders[0].unit} too"
            yield Finding(kind=kind, place=f"units/{extra.unit}.json", unit=extra.unit, detail=detail)


def _check_leftovers(ledger: Ledger) -> Iterator[Finding]:
    """What a process that was killed while it wrote left under a temporary name."""
    for folder in ("", "shards", "units", "attempts"):
        for name in storage.list_files(ledger.place(folder) if folder else ledger.root):
            if name.startswith(TEMPORARY_PREFIX):
                place = f"{folder}/{name}" if folder else name
                yield Finding(kind="half_written", place=place, unit="", detail="a write that was cut off")
