"""The manifest as a Parquet file: its columns, its digest, and a writer that sorts more rows than memory holds.

Rows are sorted in runs that wait on the local disk; then each range of keys is read from all runs, sorted, and
appended in row groups of one size. Memory is bounded by the runs, and neither the order of the rows nor how they came
in batches changes a byte of the file.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.records import TrackScores

MANIFEST_VERSION = 2
COST_STAGES = ("probe", "shots", "dedup", "track", "matte", "keypoints", "fit", "gate", "pack", "synthesize")
SCORE_NAMES = tuple(score.name for score in fields(TrackScores))
CORPUS_COLUMNS = ("duplicate_group", "identity_cluster")  # since version 2: what the whole corpus says about a sample
TEXT_COLUMNS = (
    "key", "status", "stage", "reason", "detail", "source_id", "channel", "licence", "identity", "uri",
    "video_digest", "shard", "sha256", "body_digest", "fingerprint", *CORPUS_COLUMNS,
)  # fmt: skip
WHOLE_COLUMNS = ("first_frame", "end_frame", "person", "num_frames", "offset", "num_bytes", "attempts")
_SCORES = tuple(f"score_{name}" for name in SCORE_NAMES)
_COSTS = tuple(f"cost_{name}_s" for name in COST_STAGES)
_OUTSIDE_DIGEST = {"uri", "detail", "attempts", *_COSTS}
_ORDER = ("key", "status", "stage", "reason")
_GROUP_ROWS = 25_000  # of one row group and of one run
_SAMPLE_EVERY = 250  # rows of a run between the keys that may become borders of a range

MANIFEST_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in TEXT_COLUMNS]
    + [pa.field(name, pa.int64(), nullable=False) for name in WHOLE_COLUMNS]
    + [pa.field(name, pa.float64()) for name in (*_SCORES, *_COSTS)]
)
_FIRST_SCHEMA = pa.schema([column for column in MANIFEST_SCHEMA if column.name not in CORPUS_COLUMNS])


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """A manifest that was written."""

    path: str
    digest: str
    num_rows: int


class SortedTable:
    """Takes rows in any order and publishes them sorted by key, status, stage and reason."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lhmforge-manifest-")
        self._runs: list[Path] = []
        self._borders: list[str] = []
        self._rows: list[Mapping[str, str | int | float | None]] = []

    def __enter__(self) -> SortedTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def add(self, row: Mapping[str, str | int | float | None]) -> None:
        """One row by column names; scores and costs may be left out."""
        self._rows.append(row)
        if len(self._rows) >= _GROUP_ROWS:
            self._end_run()

    def add_table(self, table: pa.Table) -> None:
        """Rows of the manifest's schema."""
        for start in range(0, table.num_rows, _GROUP_ROWS):
            self._write_run(table.slice(start, _GROUP_ROWS))

    def publish(self, path: str | Path) -> PublishedTable:
        """Raises `ShardError` when two accepted rows have one key, `StorageError` when it cannot be written."""
        self._end_run()
        digest, num_rows, last_accepted = _Digest(MANIFEST_SCHEMA), 0, None
        whole = Path(self._folder.name, "manifest.parquet")
        metadata = {"lhmforge.manifest_version": str(MANIFEST_VERSION)}
        with pq.ParquetWriter(whole, MANIFEST_SCHEMA.with_metadata(metadata), compression="zstd") as writer:
            for group in _in_groups(self._sorted()):
                last_accepted = _check_accepted(path, group, last_accepted)
                digest.update(group)
                writer.write_table(group, row_group_size=_GROUP_ROWS)
                num_rows += group.num_rows
            writer.add_key_value_metadata({"lhmforge.digest": digest.hexdigest()})
        storage.publish(path, storage.read_chunks(whole))
        return PublishedTable(path=str(path), digest=digest.hexdigest(), num_rows=num_rows)

    def _end_run(self) -> None:
        if self._rows:
            self._write_run(pa.Table.from_pylist(self._rows, schema=MANIFEST_SCHEMA))
            self._rows = []

    def _write_run(self, table: pa.Table) -> None:
        table = _sort(table)
        path = Path(self._folder.name, f"run-{len(self._runs):06d}.arrow")
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, MANIFEST_SCHEMA) as writer:
            writer.write_table(table.combine_chunks())
        self._runs.append(path)
        self._borders += table["key"].to_pylist()[::_SAMPLE_EVERY]

    def _sorted(self) -> Iterator[pa.Table]:
        """All rows in order, a range of keys at a time."""
        if not self._runs:
            return
        borders = sorted(set(self._borders))[:: max(1, _GROUP_ROWS // _SAMPLE_EVERY)]
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(pa.memory_map(str(path))) for path in self._runs]
            runs = [pa.ipc.open_file(file).read_all() for file in files]
            starts = [0] * len(runs)
            for border in [*borders[1:], None]:
                parts = []
                for index, run in enumerate(runs):
                    end = run.num_rows if border is None else _rows_below(run, border)
                    parts.append(run.slice(starts[index], end - starts[index]))
                    starts[index] = end
                yield _sort(pa.concat_tables(parts))


def read_table(path: str | Path) -> tuple[pa.Table, str]:
    """The checked rows of a manifest file and their digest.

    A file of version 1 gets empty corpus columns. Raises `ShardError` when it is missing, torn, altered or of an
    unknown version.
    """
    if not storage.exists(path):
        raise ShardError(f"manifest {path} is missing; curate writes it as manifest.parquet in its output folder")
    try:
        with pq.ParquetFile(io.BytesIO(storage.read_bytes(path))) as file:
            table, metadata = file.read(), file.metadata.metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(f"manifest {path} is not a readable Parquet file: {error}") from error
    version = metadata.get(b"lhmforge.manifest_version", b"none").decode()
    schema = {"1": _FIRST_SCHEMA, str(MANIFEST_VERSION): MANIFEST_SCHEMA}.get(version)
    if schema is None:
        raise ShardError(f"manifest {path} has version {version}; this program reads version {MANIFEST_VERSION}")
    if not table.schema.equals(schema):
        missing = sorted(set(schema.names) - set(table.schema.names))
        raise ShardError(f"manifest {path} does not have the expected columns; missing: {', '.join(missing) or 'none'}")
    digest, recorded = _Digest(schema), metadata.get(b"lhmforge.digest", b"").decode()
    digest.update(table)
    if digest.hexdigest() != recorded:
        raise ShardError(
            f"manifest {path} was altered: its rows have digest {digest.hexdigest()[:16]}, not {recorded[:16]}"
        )
    for name in CORPUS_COLUMNS:
        if name not in table.schema.names:
            table = table.append_column(MANIFEST_SCHEMA.field(name), pa.array([""] * table.num_rows, pa.string()))
    return table.select(MANIFEST_SCHEMA.names), recorded


class _Digest:
    """sha256 over one canonical JSON line per row; a missing number is null."""

    def __init__(self, schema: pa.Schema) -> None:
        self._names = [name for name in schema.names if name not in _OUTSIDE_DIGEST]
        self._encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        self._sha256 = hashlib.sha256(self._encoder.encode(self._names).encode())

    def update(self, table: pa.Table) -> None:
        for start in range(0, table.num_rows, _GROUP_ROWS):
            part = table.slice(start, _GROUP_ROWS)
            columns = [part[name].to_pylist() for name in self._names]
            for values in zip(*columns, strict=True):
                self._sha256.update(self._encoder.encode(values).encode() + b"\n")

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _sort(table: pa.Table) -> pa.Table:
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in _ORDER])
    return table.take(order)


def _rows_below(run: pa.Table, border: str) -> int:
    keys = run["key"]
    return bisect.bisect_left(range(run.num_rows), border, key=lambda row: keys[row].as_py())


def _in_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of `_GROUP_ROWS`, so that row groups do not depend on the runs."""
    waiting = MANIFEST_SCHEMA.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while waiting.num_rows >= _GROUP_ROWS:
            yield waiting.slice(0, _GROUP_ROWS).combine_chunks()
            waiting = waiting.slice(_GROUP_ROWS)
    if waiting.num_rows:
        yield waiting.combine_chunks()


def _check_accepted(path: str | Path, group: pa.Table, last: str | None) -> str | None:
    """The group's last accepted key; raises `ShardError` when a key is accepted twice."""
    for key in group.filter(pc.equal(group["status"], "accepted"))["key"].to_pylist():
        if key == last:
            raise ShardError(f"manifest {path}: sample {key!r} is listed twice")
        last = key
    return last
