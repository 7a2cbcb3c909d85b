"""A published name shows the old content, the new content, or nothing: on a full disk, after a kill, remotely too."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lhmforge.datasets import storage
from lhmforge.datasets.errors import StorageError


class FullFileSystem(MemoryFileSystem):
    """An object store without room."""

    protocol = "full"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite") -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


class RottenFileSystem(MemoryFileSystem):
    """An object store that gives other bytes back."""

    protocol = "rotten"
    store: ClassVar[dict] = {}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        return b"rot"


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path)
        return
    yield "memory://storage-test"
    MemoryFileSystem.store.clear()


def test_publish_read_list_remove(folder: str) -> None:
    uri = storage.join_uri(folder, "a", "b.bin")
    published = storage.publish(uri, (b"hello ", b"world"))
    assert published.num_bytes == 11 and published.sha256 == hashlib.sha256(b"hello world").hexdigest()
    assert storage.file_digest(uri) == published
    assert storage.read_bytes(uri) == b"hello world"
    assert storage.read_bytes(uri, offset=6, num_bytes=3) == b"wor"
    assert storage.read_bytes(uri, offset=6, num_bytes=99) == b"world"
    storage.publish(uri, (b"new",))
    assert storage.read_bytes(uri) == b"new"
    assert storage.list_files(storage.join_uri(folder, "a")) == {"b.bin": 3}
    assert storage.list_files(storage.join_uri(folder, "nowhere")) == {}
    assert storage.parent_uri(uri) == storage.join_uri(folder, "a")
    storage.remove(uri)
    storage.remove(uri)
    assert not storage.exists(uri)
    with pytest.raises(StorageError, match="does not exist"):
        storage.read_bytes(uri)


def test_a_source_that_fails_midway_leaves_the_old_content(folder: str) -> None:
    uri = storage.join_uri(folder, "x.bin")
    storage.publish(uri, (b"old",))

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("a bug upstream")

    with pytest.raises(RuntimeError, match="bug upstream"):
        storage.publish(uri, broken())
    assert storage.read_bytes(uri) == b"old"
    assert storage.list_files(folder) == {"x.bin": 3}


def test_remote_stores_that_are_full_or_rotten() -> None:
    fsspec.register_implementation("full", FullFileSystem, clobber=True)
    fsspec.register_implementation("rotten", RottenFileSystem, clobber=True)
    with pytest.raises(StorageError, match="no space is left"):
        storage.publish("full://a/b", (b"x",))
    with pytest.raises(StorageError, match="not what was written"):
        storage.publish("rotten://a/b", (b"x",))
    with pytest.raises(StorageError, match="unheard-of"):
        storage.read_bytes("unheard-of://a/b")


def _run(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A process whose files may hold 64 KiB stands for a disk with that much room."""
    storage.publish(tmp_path / "x.bin", (b"old",))
    process = _run(
        """
        import resource, signal, sys
        from lhmforge.datasets import storage
        from lhmforge.datasets.errors import ForgeError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        try:
            storage.publish(sys.argv[1], (bytes(40000) for _ in range(4)))
        except ForgeError as error:
            print(error)
        """,
        str(tmp_path / "x.bin"),
    )
    out, err = process.communicate(timeout=60)
    assert "no space is left" in out, err
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
    assert (tmp_path / "x.bin").read_bytes() == b"old"


def test_a_kill_in_the_middle_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    process = _run(
        """
        import sys, time
        from lhmforge.datasets import storage
        def chunks():
            yield bytes(1 << 20)
            print("written", flush=True)
            time.sleep(60)
        storage.publish(sys.argv[1], chunks())
        """,
        str(tmp_path / "x.bin"),
    )
    assert process.stdout is not None and process.stdout.readline() == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    left = [path.name for path in tmp_path.iterdir()]
    assert left and all(name.startswith(storage.TEMPORARY_PREFIX) for name in left)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        storage.publish(tmp_path / "file" / "x.bin", (b"x",))
