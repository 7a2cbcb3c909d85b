"""Where every followed person went, as one Parquet file per work unit: also the tracks that were turned down later.

Shards hold accepted frames alone; how well people were followed, and who was lost, can be told only from all tracks.
Rows are sorted by source, track key and frame; same tracks, same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ShardError, StorageError
from lhmforge.datasets.records import TrackPath

PATHS_FOLDER = "tracks"
_VERSION = b"1"
_BOX = ("x0_px", "y0_px", "x1_px", "y1_px")
SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("source_id", "key")]
    + [pa.field("frame", pa.int64(), nullable=False)]
    + [pa.field(name, pa.float32(), nullable=False) for name in (*_BOX, "score")]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePath:
    """A track's path and the source it was seen in."""

    source_id: str
    path: TrackPath


def write_paths(place: str, paths: Iterable[SourcePath]) -> None:
    """Publishes the paths of one unit atomically; their order does not matter."""
    ordered = sorted(paths, key=lambda item: (item.source_id, item.path.key))
    columns: dict[str, list[np.ndarray]] = {name: [] for name in SCHEMA.names}
    for item in ordered:
        count = len(item.path.frame_indices)
        columns["source_id"].append(np.array([item.source_id] * count, object))
        columns["key"].append(np.array([item.path.key] * count, object))
        columns["frame"].append(item.path.frame_indices)
        for index, name in enumerate(_BOX):
            columns[name].append(item.path.boxes_px[:, index])
        columns["score"].append(item.path.scores)
    arrays = [
        pa.array(np.concatenate(columns[field.name]) if ordered else [], type=field.type, from_pandas=False)
        for field in SCHEMA
    ]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata({b"lhmforge.tracks_version": _VERSION}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    storage.publish(place, (buffer.getvalue(),))


def read_paths(root: str, units: Sequence[str]) -> Mapping[str, tuple[TrackPath, ...]]:
    """Source id -> its tracks, of the named units of a run; raises `ShardError` for a missing or damaged file."""
    found: dict[str, list[TrackPath]] = {}
    for unit in units:
        place = storage.join_uri(root, PATHS_FOLDER, f"{unit}.parquet")
        for item in _read(place):
            found.setdefault(item.source_id, []).append(item.path)
    return {source_id: tuple(paths) for source_id, paths in found.items()}


def _read(place: str) -> list[SourcePath]:
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(place)))
    except (StorageError, pa.ArrowInvalid, OSError) as error:
        raise ShardError(f"tracks {place} cannot be read ({error}); run `lhmforge curate` on this folder") from error
    if (table.schema.metadata or {}).get(b"lhmforge.tracks_version") != _VERSION:
        raise ShardError(f"{place} holds no tracks of version {_VERSION.decode()}; curate again")
    items = []
    for (source_id, key), rows in table.to_pandas().groupby(["source_id", "key"], sort=True):
        path = TrackPath(
            key=str(key),
            frame_indices=rows["frame"].to_numpy(np.int64),
            boxes_px=rows[list(_BOX)].to_numpy(np.float32),
            scores=rows["score"].to_numpy(np.float32),
        )
        items.append(SourcePath(source_id=str(source_id), path=path))
    return items
