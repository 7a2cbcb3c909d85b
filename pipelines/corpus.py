"""The corpus: what the user points at (folders, files, manifests) as a sorted list of source videos in work units.

Units are leaves of a binary tree over hashed source ids: the same set of ids gives the same units on every machine,
and a new video changes the one unit it falls into.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lhmforge.datasets import storage
from lhmforge.datasets.errors import CorpusError, StorageError
from lhmforge.datasets.records import SourceVideo

_COMMON_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_OTHER_SUFFIXES = (".mpg", ".mpeg", ".ts", ".m2ts", ".flv", ".wmv", ".3gp", ".ogv", ".mxf")
VIDEO_SUFFIXES = frozenset((*_COMMON_SUFFIXES, *_OTHER_SUFFIXES))
MANIFEST_SUFFIXES = frozenset({".parquet", ".csv"})
PLACE_COLUMNS = ("path", "uri")
FIELD_COLUMNS = ("source_id", "channel", "licence", "identity")
_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusItem:
    """A source with what the file system says about it.

    `duplicate_of` names the first source of equal content; `taken_down`: its samples were withdrawn for good.
    """

    source: SourceVideo
    num_bytes: int  # -1: not readable
    mtime_ns: int  # 0: the store does not tell
    duplicate_of: str = ""
    taken_down: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """A named, bounded group of videos: what one task curates and one completion record describes."""

    name: str
    items: tuple[CorpusItem, ...]


def read_corpus(inputs: Sequence[str | Path]) -> tuple[SourceVideo, ...]:
    """All sources of the inputs, sorted by id.

    A folder gives its video files (ids: paths relative to it), a Parquet or CSV file its rows (columns `path` or
    `uri`, and optional `source_id`, `channel`, `licence`, `identity`), any other file itself.

    Raises `CorpusError`: an input that does not exist, a folder without videos, a manifest with wrong columns or empty
    places, two sources of one id.
    """
    sources = [source for place in inputs for source in _read_input(place)]
    sources = list(dict.fromkeys(sources))
    if not sources:
        raise CorpusError(f"no video among the inputs {', '.join(map(str, inputs)) or '(none given)'}")
    repeated = [name for name, count in Counter(s.source_id for s in sources).items() if count > 1]
    if repeated:
        raise CorpusError(
            f"source id {min(repeated)!r} is given {sum(s.source_id == min(repeated) for s in sources)} times "
            f"({len(repeated)} such ids); ids must be unique: set source_id in a manifest"
        )
    return tuple(sorted(sources, key=lambda source: source.source_id))


def survey(sources: Sequence[SourceVideo]) -> tuple[CorpusItem, ...]:
    """Sizes and times of all sources, and exact duplicates; only files of equal size are read for it."""
    with ThreadPoolExecutor(_THREADS) as pool:
        states = _states(sources, pool)
        duplicates = _duplicates(sources, states, pool)
    return tuple(
        CorpusItem(source=source, num_bytes=size, mtime_ns=mtime, duplicate_of=duplicates.get(source.source_id, ""))
        for source, (size, mtime) in zip(sources, states, strict=True)
    )


def group_units(items: Iterable[CorpusItem], *, max_videos: int) -> tuple[WorkUnit, ...]:
    """Units of at most `max_videos` videos, sorted by name; inside a unit, items are sorted by source id."""
    assert max_videos > 0
    hashed = sorted((_id_bits(item.source.source_id), item.source.source_id, item) for item in items)
    leaves = _split([(bits, item) for bits, _, item in hashed], "", max_videos)
    return tuple(
        WorkUnit(name=f"unit-{prefix or 'all'}", items=tuple(sorted(leaf, key=lambda item: item.source.source_id)))
        for prefix, leaf in leaves
        if leaf
    )


def is_remote(uri: str) -> bool:
    """Whether a place is a URI of an object store and not a local path."""
    return "://" in uri and not uri.startswith("file://")


def _read_input(place: str | Path) -> Iterator[SourceVideo]:
    if is_remote(str(place)) and Path(str(place)).suffix.lower() not in MANIFEST_SUFFIXES:
        yield SourceVideo(uri=str(place), source_id=str(place))
        return
    path = Path(place)
    if path.suffix.lower() in MANIFEST_SUFFIXES and not path.is_dir():
        yield from _read_manifest(str(place))
    elif path.is_dir():
        yield from _read_folder(path)
    elif path.is_file():
        yield SourceVideo(uri=str(path.resolve()), source_id=path.name)
    else:
        raise CorpusError(f"input {place} does not exist; give a folder, a video, or a .parquet/.csv manifest")


def _read_folder(folder: Path) -> Iterator[SourceVideo]:
    found = False
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                found = True
                path = Path(parent, name)
                yield SourceVideo(uri=str(path.resolve()), source_id=path.relative_to(folder).as_posix())
    if not found:
        raise CorpusError(f"folder {folder} holds no video (looked for {', '.join(sorted(VIDEO_SUFFIXES))})")


def _read_manifest(place: str) -> Iterator[SourceVideo]:
    table = _read_table(place)
    places = [name for name in PLACE_COLUMNS if name in table.columns]
    unknown = sorted(set(table.columns) - {*PLACE_COLUMNS, *FIELD_COLUMNS})
    if len(places) != 1 or unknown:
        wrong = f"unknown column(s) {', '.join(map(repr, unknown))}" if unknown else f"it has {len(places)} of them"
        raise CorpusError(
            f"manifest {place}: {wrong}; it needs exactly one of {' or '.join(PLACE_COLUMNS)}, and may have "
            f"{', '.join(FIELD_COLUMNS)} (found: {', '.join(map(str, table.columns)) or 'none'})"
        )
    if table.empty:
        raise CorpusError(f"manifest {place} has no rows")
    columns = {name: [_text(value) for value in table[name].tolist()] for name in table.columns}
    root = storage.parent_uri(str(Path(place).resolve()) if not is_remote(place) else place)
    for row, written in enumerate(columns[places[0]]):
        if not written:
            raise CorpusError(f"manifest {place}: row {row} has no {places[0]}")
        fields = {name: columns[name][row] for name in FIELD_COLUMNS if name in columns}
        fields["source_id"] = fields.get("source_id") or written
        yield SourceVideo(uri=_absolute(written, root), **fields)


def _read_table(place: str) -> pd.DataFrame:
    try:
        file = io.BytesIO(storage.read_bytes(place))
        if place.lower().endswith(".csv"):
            return pd.read_csv(file, dtype=str, keep_default_na=False)
        return pd.read_parquet(file)
    except (StorageError, OSError, ValueError) as error:
        raise CorpusError(f"manifest {place} cannot be read: {error}") from error


def _text(value: object) -> str:
    """Text of a cell; a missing value is empty."""
    return "" if value is None or value != value else str(value).strip()


def _absolute(written: str, root: str) -> str:
    if is_remote(written):
        return written
    local = written.removeprefix("file://")
    return local if Path(local).is_absolute() else storage.join_uri(root, local)


def _states(sources: Sequence[SourceVideo], pool: ThreadPoolExecutor) -> list[tuple[int, int]]:
    """Size and time of change per source; remote folders are listed once each."""
    folders = sorted({storage.parent_uri(source.uri) for source in sources if is_remote(source.uri)})
    listings = dict(zip(folders, pool.map(_list_remote, folders), strict=True))
    chunks = [sources[start : start + 1000] for start in range(0, len(sources), 1000)]
    return [state for chunk in pool.map(lambda part: [_state(s, listings) for s in part], chunks) for state in chunk]


def _list_remote(folder: str) -> dict[str, int]:
    try:
        return storage.list_files(folder)
    except StorageError:
        return {}


def _state(source: SourceVideo, listings: dict[str, dict[str, int]]) -> tuple[int, int]:
    if is_remote(source.uri):
        name = source.uri.rsplit("/", 1)[-1]
        return listings[storage.parent_uri(source.uri)].get(name, -1), 0
    try:
        status = Path(source.uri).stat()
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def _duplicates(
    sources: Sequence[SourceVideo], states: Sequence[tuple[int, int]], pool: ThreadPoolExecutor
) -> dict[str, str]:
    """Source id -> id of the first source (in id order) with the same bytes."""
    by_size: defaultdict[int, list[SourceVideo]] = defaultdict(list)
    for source, (size, _) in zip(sources, states, strict=True):
        if size > 0:
            by_size[size].append(source)
    candidates = [source for group in by_size.values() if len(group) > 1 for source in group]
    first: dict[str, str] = {}
    duplicates: dict[str, str] = {}
    digests = pool.map(_digest, candidates)
    for source, digest in sorted(zip(candidates, digests, strict=True), key=lambda pair: pair[0].source_id):
        if digest and first.setdefault(digest, source.source_id) != source.source_id:
            duplicates[source.source_id] = first[digest]
    return duplicates


def _digest(source: SourceVideo) -> str:
    try:
        return storage.file_digest(source.uri).sha256
    except StorageError:
        return ""


def _id_bits(source_id: str) -> str:
    return f"{int.from_bytes(hashlib.sha256(source_id.encode()).digest()[:16], 'big'):0128b}"


def _split(
    items: Sequence[tuple[str, CorpusItem]], prefix: str, max_videos: int
) -> Iterator[tuple[str, list[CorpusItem]]]:
    if len(items) <= max_videos or len(prefix) == 128:
        yield prefix, [item for _, item in items]
        return
    for bit in "01":
        yield from _split([pair for pair in items if pair[0][len(prefix)] == bit], prefix + bit, max_videos)
