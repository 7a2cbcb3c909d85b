"""Shards: tar files in WebDataset form (`KEY.MEMBER`) whose bytes depend on the samples alone.

Samples are sorted by key and members by name; mode, owner, group and time are fixed. The members of a sample lie in
one byte range, so a reader that knows the range from the manifest gets the sample with a single ranged read.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import webdataset as wds

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.records import PackedSample

_BLOCK_BYTES = tarfile.BLOCKSIZE
_END_OF_ARCHIVE = bytes(2 * _BLOCK_BYTES)
_KEY_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,69}")  # a tar header holds 100 characters of KEY.MEMBER
_MEMBER_FORM = re.compile(r"[a-z0-9_\-]{1,20}\.[a-z0-9]{1,8}")  # WebDataset folds member names to lower case


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """Where one sample lies in its shard; `sha256` is that of the byte range."""

    key: str
    offset: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One written shard; `name` is its file name."""

    name: str
    sha256: str
    num_samples: int
    num_bytes: int
    entries: tuple[ShardEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSample:
    """One sample as read: member name -> bytes."""

    key: str
    members: dict[str, bytes]


def write_shard(path: str | Path, samples: Sequence[PackedSample]) -> ShardInfo:
    """Publishes a shard atomically; same samples in any order, same bytes.

    Raises `StorageError` when it cannot be written. Duplicate keys and odd names are bugs of the caller.
    """
    ordered = sorted(samples, key=lambda sample: sample.key)
    assert len({sample.key for sample in ordered}) == len(ordered), "two samples of a shard have the same key"
    assert ordered, "a shard needs at least one sample"
    entries: list[ShardEntry] = []
    published = storage.publish(path, _shard_chunks(ordered, entries))
    return ShardInfo(
        name=posixpath.basename(str(path)),
        sha256=published.sha256,
        num_samples=len(ordered),
        num_bytes=published.num_bytes,
        entries=tuple(entries),
    )


def copy_samples(source: str | Path, target: str | Path, entries: Sequence[ShardEntry]) -> ShardInfo:
    """Publishes a shard that holds the given samples of another one, byte for byte, in the same order.

    Raises `ShardError` when a sample does not have its entry's sha256, `StorageError` when it cannot be written.
    """
    ordered = sorted(entries, key=lambda entry: entry.offset)
    assert ordered, "a shard needs at least one sample"
    moved: list[ShardEntry] = []

    def chunks() -> Iterator[bytes]:
        offset = 0
        for entry in ordered:
            data = storage.read_bytes(source, offset=entry.offset, num_bytes=entry.num_bytes)
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise ShardError(f"shard {source} was altered: sample {entry.key} does not have the recorded sha256")
            moved.append(replace(entry, offset=offset))
            offset += len(data)
            yield data
        yield _END_OF_ARCHIVE

    published = storage.publish(target, chunks())
    return ShardInfo(
        name=posixpath.basename(str(target)),
        sha256=published.sha256,
        num_samples=len(moved),
        num_bytes=published.num_bytes,
        entries=tuple(moved),
    )


def verify_shard(path: str | Path, *, sha256: str) -> None:
    """Raises `ShardError` unless the file exists and has exactly this content."""
    if not storage.exists(path):
        raise ShardError(f"shard {path} is missing")
    found = storage.file_digest(path)
    if found.sha256 != sha256:
        raise ShardError(
            f"shard {path} was altered: its sha256 is {found.sha256[:16]}..., the record says {sha256[:16]}..."
        )


def iter_shard(path: str | Path) -> Iterator[ShardSample]:
    """All samples of a shard in key order, read front to back; raises `ShardError` if the tar is torn."""
    data = storage.read_bytes(path)
    if not data.endswith(_END_OF_ARCHIVE):
        raise ShardError(f"shard {path} is torn: the end-of-archive mark is missing")
    yield from _samples_in(data, what=str(path))


def read_sample(path: str | Path, entry: ShardEntry, *, verify: bool = True) -> ShardSample:
    """One sample by its byte range.

    Raises `ShardError` when the shard is missing or too short, the bytes differ from the manifest's sha256 (checked
    unless `verify` is off), or another sample lies there.
    """
    if not storage.exists(path):
        raise ShardError(f"shard {path} is missing; the manifest needs it for sample {entry.key}")
    data = storage.read_bytes(path, offset=entry.offset, num_bytes=entry.num_bytes)
    if len(data) != entry.num_bytes or (verify and hashlib.sha256(data).hexdigest() != entry.sha256):
        raise ShardError(
            f"shard {path} was altered: sample {entry.key} at byte {entry.offset} does not have the manifest's sha256"
        )
    found = list(_samples_in(data, what=str(path)))
    if [sample.key for sample in found] != [entry.key]:
        raise ShardError(f"shard {path}: expected sample {entry.key} at byte {entry.offset}, found another one")
    return found[0]


def _shard_chunks(samples: Sequence[PackedSample], entries: list[ShardEntry]) -> Iterator[bytes]:
    offset = 0
    for sample in samples:
        sha256, start = hashlib.sha256(), offset
        for chunk in _sample_chunks(sample):
            sha256.update(chunk)
            offset += len(chunk)
            yield chunk
        entries.append(ShardEntry(key=sample.key, offset=start, num_bytes=offset - start, sha256=sha256.hexdigest()))
    yield _END_OF_ARCHIVE


def _sample_chunks(sample: PackedSample) -> Iterator[bytes]:
    assert _KEY_FORM.fullmatch(sample.key), f"sample key {sample.key!r} may hold 70 letters, digits, _ and -"
    names = [name for name, _ in sample.members]
    assert len(set(names)) == len(names), f"sample {sample.key} has two members of the same name"
    for name, data in sorted(sample.members):
        assert _MEMBER_FORM.fullmatch(name), f"member name {name!r} must look like stem.suffix"
        header = tarfile.TarInfo(f"{sample.key}.{name}")
        header.size, header.mtime, header.mode = len(data), 0, 0o644
        header.uid = header.gid = 0
        header.uname = header.gname = ""
        yield header.tobuf(tarfile.USTAR_FORMAT)
        yield data
        yield bytes(-len(data) % _BLOCK_BYTES)


def _samples_in(data: bytes, *, what: str) -> Iterator[ShardSample]:
    """Samples of whole tar members, grouped the way WebDataset groups them: by the name up to its first dot."""
    source = [{"url": what, "stream": io.BytesIO(data)}]
    grouped = wds.tariterators.group_by_keys(wds.tariterators.tar_file_expander(source))
    try:
        yield from (_to_sample(group) for group in grouped)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise ShardError(f"shard {what} is not a readable tar of samples: {error}") from error


def _to_sample(group: dict[str, str | bytes]) -> ShardSample:
    members = {name: data for name, data in group.items() if isinstance(data, bytes)}
    return ShardSample(key=str(group["__key__"]), members=members)
