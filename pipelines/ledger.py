"""The ledger: completion records, attempts and the stage cache in a run's output folder, all published atomically.

`units/NAME.json` is written last and says that a unit is done; `attempts/NAME.json` says which videos were begun and
how that ended; `cache/STAGE/...npz` keeps the records of the expensive stages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from lhmforge.datasets import storage
from lhmforge.datasets.config_json import JsonValue, from_json, to_json
from lhmforge.datasets.errors import ConfigError, StorageError
from lhmforge.datasets.manifest import ManifestRow
from lhmforge.datasets.records import Signature
from lhmforge.pipelines.chain import StageCount
from lhmforge.pipelines.corpus import is_remote

RECORD_VERSION = 2
AttemptState: TypeAlias = Literal["started", "failed", "interrupted", "finished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """One shard of a unit; an unchanged size and time of change stand in for its hash when a run resumes."""

    name: str
    sha256: str
    num_samples: int
    num_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOutcome:
    """The terminal state of one video."""

    source_id: str
    state: Literal["done", "quarantined", "taken_down"]
    digest: str
    num_bytes: int
    mtime_ns: int
    num_frames: int
    duration_s: float
    num_tracks: int
    num_accepted: int
    num_rejected: int
    attempts: int
    seconds: float  # of this run; what came out of the stage cache costs nothing again


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTotal:
    """One stage over a unit: counts, seconds spent by this run, and `cached_seconds` spent by earlier ones."""

    stage: str
    num_in: int
    num_out: int
    num_rejected: int
    seconds: float
    cached_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSignature:
    """The signature of one sample in JSON: times in ms, hashes as 16 hex digits each."""

    key: str
    times_ms: tuple[int, ...]
    frames: str
    persons: str

    @classmethod
    def of(cls, key: str, signature: Signature) -> StoredSignature:
        """The stored form."""
        return cls(
            key=key,
            times_ms=tuple(round(1000 * float(time)) for time in signature.times_s),
            frames=signature.frame_hashes.astype(">u8").tobytes().hex(),
            persons=signature.person_hashes.astype(">u8").tobytes().hex(),
        )

    @property
    def signature(self) -> Signature:
        """The signature again."""
        return Signature(
            times_s=np.array(self.times_ms, np.float32) / np.float32(1000),
            frame_hashes=np.frombuffer(bytes.fromhex(self.frames), ">u8").astype(np.uint64),
            person_hashes=np.frombuffer(bytes.fromhex(self.persons), ">u8").astype(np.uint64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """The completion record of a unit; `likeness` is the sha256 of its file of face vectors (empty: it has none)."""

    version: int
    unit: str
    fingerprint: str
    videos: tuple[VideoOutcome, ...]
    shards: tuple[ShardRecord, ...]
    stages: tuple[StageTotal, ...]
    rows: tuple[ManifestRow, ...]
    seconds: float
    signatures: tuple[StoredSignature, ...] = ()
    likeness: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a video: the run that made it, the stage it reached, how it ended."""

    run: str
    watched: bool  # a driver stood by that sees the process die; else the process was the driver itself
    stage: str
    state: AttemptState
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptList:
    source_id: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFile:
    fingerprint: str
    videos: tuple[AttemptList, ...] = field(default=())


class Ledger:
    """Reads and writes the state of one output folder (a local path or a URI)."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)

    def place(self, *parts: str) -> str:
        """A path or URI below the output folder."""
        return storage.join_uri(self.root, *parts)

    def write_record(self, record: UnitRecord) -> None:
        """Publishes the record that makes a unit done."""
        text = json.dumps(_strict(to_json(record)), indent=1, allow_nan=False)
        storage.publish(self.place("units", f"{record.unit}.json"), (text.encode(),))

    def read_record(self, unit: str) -> UnitRecord | None:
        """The record of a unit; None when there is none or it is of another form."""
        place = self.place("units", f"{unit}.json")
        try:
            tree = json.loads(storage.read_bytes(place))
            return from_json(UnitRecord, _with_nan(tree), where=place)
        except (StorageError, ConfigError, ValueError, AssertionError):
            return None

    def unit_names(self) -> list[str]:
        """The names of all units with a record, sorted."""
        names = storage.list_files(self.place("units"))
        return sorted(Path(name).stem for name in names if name.endswith(".json"))

    def attempts(self, unit: str, fingerprint: str) -> UnitAttempts:
        """The attempts at a unit's videos; those of another fingerprint are forgotten."""
        return UnitAttempts(self.place("attempts", f"{unit}.json"), fingerprint)

    def shard_is_intact(self, shard: ShardRecord, sizes: dict[str, int], *, rehash: bool = False) -> bool:
        """Whether a shard is what the record says; it is hashed when its time of change differs, or on demand."""
        if sizes.get(shard.name) != shard.num_bytes:
            return False
        place = self.place("shards", shard.name)
        if not rehash and modified_ns(place) == shard.mtime_ns:
            return True
        return storage.file_digest(place).sha256 == shard.sha256

    def shard_sizes(self) -> dict[str, int]:
        """Name -> size of everything in the shard folder, by one listing."""
        return storage.list_files(self.place("shards"))

    def get(self, stage: str, fingerprint: str, video_digest: str) -> bytes | None:
        """A stage cache entry, None when it is not there."""
        place = self._cache_place(stage, fingerprint, video_digest)
        return storage.read_bytes(place) if storage.exists(place) else None

    def put(self, stage: str, fingerprint: str, video_digest: str, data: bytes) -> None:
        """Publishes a stage cache entry."""
        storage.publish(self._cache_place(stage, fingerprint, video_digest), (data,))

    def _cache_place(self, stage: str, fingerprint: str, video_digest: str) -> str:
        return self.place("cache", stage, fingerprint[:16], video_digest[:2], f"{video_digest[:32]}.npz")


class UnitAttempts:
    """The attempts at the videos of one unit, written through on every change; one process writes it at a time."""

    def __init__(self, place: str, fingerprint: str) -> None:
        self._place, self._fingerprint = place, fingerprint
        self._videos = {v.source_id: list(v.attempts) for v in self._load().videos}

    def begin(self, source_id: str, run: str, *, watched: bool) -> None:
        """Records that a video is in hand, before anything is done to it."""
        attempt = Attempt(run=run, watched=watched, stage="", state="started")
        self._videos.setdefault(source_id, []).append(attempt)
        self._save()

    def enter(self, source_id: str, stage: str) -> None:
        """Records the stage that the video in hand has reached."""
        self._update(source_id, replace(self._videos[source_id][-1], stage=stage))

    def end(self, source_id: str, state: AttemptState, detail: str = "") -> None:
        """Records how the attempt in hand ended."""
        self._update(source_id, replace(self._videos[source_id][-1], state=state, detail=detail))

    def close_open(self, state: AttemptState, detail: str) -> list[str]:
        """Ends what a dead worker left open; returns the source ids that were in hand."""
        in_hand = [name for name, attempts in self._videos.items() if attempts and attempts[-1].state == "started"]
        for name in in_hand:
            self.end(name, state, detail)
        return in_hand

    def counted(self, source_id: str) -> list[Attempt]:
        """The attempts that count against a video: failed ones, and those that took the driver itself with them.

        A watched attempt without an end lost its driver, which is not the video's doing.
        """
        attempts = self._videos.get(source_id, [])
        return [a for a in attempts if a.state == "failed" or (a.state == "started" and not a.watched)]

    def num_failed(self) -> int:
        """Failed attempts at all videos of the unit."""
        return sum(a.state == "failed" for attempts in self._videos.values() for a in attempts)

    def total(self, source_id: str) -> int:
        """All attempts at a video."""
        return len(self._videos.get(source_id, []))

    def forget(self) -> None:
        """Removes the file: its unit is done, and the record holds the numbers."""
        storage.remove(self._place)

    def _update(self, source_id: str, attempt: Attempt) -> None:
        self._videos[source_id][-1] = attempt
        self._save()

    def _load(self) -> AttemptFile:
        try:
            found = from_json(AttemptFile, json.loads(storage.read_bytes(self._place)), where=self._place)
        except (StorageError, ConfigError, ValueError):
            return AttemptFile(fingerprint=self._fingerprint)
        return found if found.fingerprint == self._fingerprint else AttemptFile(fingerprint=self._fingerprint)

    def _save(self) -> None:
        videos = tuple(AttemptList(source_id=k, attempts=tuple(v)) for k, v in sorted(self._videos.items()))
        content = AttemptFile(fingerprint=self._fingerprint, videos=videos)
        storage.publish(self._place, (json.dumps(to_json(content), indent=1).encode(),))


def modified_ns(place: str) -> int:
    """Time of change of a local file, 0 for a store that does not tell."""
    return 0 if is_remote(place) else Path(place).stat().st_mtime_ns


def total_by_stage(
    names: Sequence[str], counts: Sequence[StageCount], seconds: dict[tuple[str, bool], float]
) -> tuple[StageTotal, ...]:
    """Sums counts and `(stage, cached) -> seconds` over a unit, in the order of `names`."""
    return tuple(
        StageTotal(
            stage=name,
            num_in=sum(c.num_in for c in counts if c.stage == name),
            num_out=sum(c.num_out for c in counts if c.stage == name),
            num_rejected=sum(c.num_rejected for c in counts if c.stage == name),
            seconds=seconds.get((name, False), 0.0),
            cached_seconds=seconds.get((name, True), 0.0),
        )
        for name in names
    )


def _strict(tree: JsonValue) -> JsonValue:
    """JSON has no NaN: a score that could not be measured becomes null."""
    if isinstance(tree, dict):
        return {name: _strict(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_strict(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _with_nan(tree: JsonValue) -> JsonValue:
    """Undoes `_strict` for the scores of the rows, the only floats that may be missing."""
    assert isinstance(tree, dict)
    rows = tree.get("rows")
    for row in rows if isinstance(rows, list) else []:
        scores = row.get("scores") if isinstance(row, dict) else None
        if isinstance(scores, dict):
            scores.update({name: math.nan for name, value in scores.items() if value is None})
    return tree
