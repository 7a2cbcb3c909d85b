"""Where bytes lie: local paths and fsspec URIs (s3://, memory://) behind one set of functions.

`publish` is the only way this project puts a file under a name that readers trust. Locally it writes a temporary
neighbour, flushes and fsyncs it, reads it back, and renames it; in an object store it is one put, read back afterwards.
A name therefore shows the old content, the new content, or nothing, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import posixpath
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from lhmforge.datasets.errors import StorageError

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 20
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TEMPORARY_PREFIX = ".partial-"  # fsck may delete anything that starts with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What lies under a published name."""

    sha256: str
    num_bytes: int


def publish(uri: str | Path, chunks: Iterable[bytes]) -> Published:
    """Puts the joined `chunks` under `uri` all at once, replacing what is there; creates missing folders.

    Raises `StorageError` when the place is full, not writable, or gives other bytes back; the temporary file is
    removed and whatever was under `uri` before stays.
    """
    filesystem, path = _resolve(uri)
    with _explained(f"write {uri}"):
        if isinstance(filesystem, LocalFileSystem):
            return _publish_local(Path(path), chunks)
        return _publish_object(filesystem, path, chunks)


def read_bytes(uri: str | Path, *, offset: int = 0, num_bytes: int | None = None) -> bytes:
    """The file, or `num_bytes` of it from `offset` (fewer at its end); raises `StorageError` if it cannot be read."""
    filesystem, path = _resolve(uri)
    with _explained(f"read {uri}"):
        if isinstance(filesystem, LocalFileSystem):
            with Path(path).open("rb") as file:
                file.seek(offset)
                return file.read(-1 if num_bytes is None else num_bytes)
        end = None if num_bytes is None else offset + num_bytes
        return bytes(filesystem.cat_file(path, start=offset, end=end))


def read_chunks(uri: str | Path) -> Iterator[bytes]:
    """The file in pieces of bounded size; raises `StorageError` if it cannot be read."""
    filesystem, path = _resolve(uri)
    with _explained(f"read {uri}"), filesystem.open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def file_digest(uri: str | Path) -> Published:
    """sha256 and size of a file; raises `StorageError` if it cannot be read."""
    return _digest(read_chunks(uri))


def exists(uri: str | Path) -> bool:
    """Whether a file or folder lies under `uri`."""
    filesystem, path = _resolve(uri)
    with _explained(f"look up {uri}"):
        return bool(filesystem.exists(path))


def remove(uri: str | Path) -> None:
    """Removes one file; a missing one is fine."""
    filesystem, path = _resolve(uri)
    with _explained(f"remove {uri}"), contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def list_files(folder: str | Path) -> dict[str, int]:
    """Name -> size in bytes of the files directly in a folder (one listing call); a missing folder is empty."""
    filesystem, path = _resolve(folder)
    with _explained(f"list {folder}"):
        try:
            entries = filesystem.ls(path, detail=True, refresh=True)
        except FileNotFoundError:
            return {}
    return {posixpath.basename(entry["name"]): int(entry["size"]) for entry in entries if entry["type"] == "file"}


def find_files(pattern: str | Path) -> list[str]:
    """The files that a glob pattern (a path or URI with `*`) matches, sorted; none below a missing folder."""
    filesystem, path = _resolve(pattern)
    with _explained(f"search {pattern}"):
        return sorted(filesystem.unstrip_protocol(name) for name in filesystem.glob(path) if filesystem.isfile(name))


def remove_folder(folder: str | Path) -> None:
    """Removes a folder and all below it; a missing one is fine."""
    filesystem, path = _resolve(folder)
    with _explained(f"remove {folder}"), contextlib.suppress(FileNotFoundError):
        filesystem.rm(path, recursive=True)


def join_uri(folder: str | Path, *parts: str) -> str:
    """`folder/part/...` for a local path or a URI."""
    return posixpath.join(str(folder), *parts)


def parent_uri(uri: str | Path) -> str:
    """The folder of a file; "." for a bare local name."""
    return posixpath.dirname(str(uri)) or "."


def _resolve(uri: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(str(uri))
    except (ValueError, ImportError) as error:
        raise StorageError(
            f"cannot reach {uri}: {error}; use a local path or a URI whose fsspec package is installed"
        ) from error
    return filesystem, path


@contextlib.contextmanager
def _explained(action: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"cannot {action}: it does not exist") from error
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageError(
                f"cannot {action}: no space is left there ({error.strerror}); free some and rerun"
            ) from error
        raise StorageError(f"cannot {action}: {error}") from error


def _publish_local(path: Path, chunks: Iterable[bytes]) -> Published:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        with temporary.open("xb") as file:
            written = _digest(_tee(chunks, file.write))
            file.flush()
            os.fsync(file.fileno())
        with temporary.open("rb") as file:
            stored = _digest(iter(lambda: file.read(_CHUNK_BYTES), b""))
        _require_same(path, written, stored)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return written


def _publish_object(filesystem: fsspec.AbstractFileSystem, path: str, chunks: Iterable[bytes]) -> Published:
    data = b"".join(chunks)
    written = _digest((data,))
    filesystem.pipe_file(path, data)
    _require_same(path, written, _digest((filesystem.cat_file(path),)))
    return written


def _tee(chunks: Iterable[bytes], write: Callable[[bytes], object]) -> Iterator[bytes]:
    for chunk in chunks:
        write(chunk)
        yield chunk


def _digest(chunks: Iterable[bytes]) -> Published:
    sha256, num_bytes = hashlib.sha256(), 0
    for chunk in chunks:
        sha256.update(chunk)
        num_bytes += len(chunk)
    return Published(sha256=sha256.hexdigest(), num_bytes=num_bytes)


def _require_same(path: str | Path, written: Published, stored: Published) -> None:
    if written != stored:
        raise StorageError(f"{path}: what was read back is not what was written; the disk or store is not sound")


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable; some network file systems cannot, and say so with EINVAL."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _log.debug("folder %s cannot be fsynced", folder)
    finally:
        os.close(descriptor)
