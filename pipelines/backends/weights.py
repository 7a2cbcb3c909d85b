"""Where a backend's weights come from: the user's file named in the spec, or the embedded asset; and their digests."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from lhmforge.datasets.asset_table import asset
from lhmforge.datasets.assets import asset_path, file_sha256
from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.user_weights import user_weights


def embedded_or_user(spec: BackendSpec, asset_name: str) -> Path:
    """The user's file when the spec names one, else the embedded asset (fetched on first use)."""
    return _existing(spec.weights, spec.name) if spec.weights else asset_path(asset_name)


def embedded_or_user_digest(spec: BackendSpec, asset_name: str) -> str:
    """sha256 of what `embedded_or_user` gives, without fetching the asset."""
    return digest(_existing(spec.weights, spec.name)) if spec.weights else asset(asset_name).sha256


def user_file(spec: BackendSpec, role: str) -> Path:
    """The user's weight file; raises `BackendError` that says what it is, where to get it, and under which licence."""
    _require_name(spec, role)
    return _existing(spec.weights, spec.name)


def user_folder(spec: BackendSpec, role: str, *, needs: Sequence[str]) -> Path:
    """The user's folder of weights with the files `needs` in it; raises `BackendError` like `user_file`."""
    _require_name(spec, role)
    folder = Path(spec.weights).expanduser()
    if not folder.is_dir():
        raise BackendError(f"backend {spec.name!r}: folder {spec.weights!r} does not exist or is not a folder")
    missing = [name for name in needs if not (folder / name).is_file()]
    if missing:
        raise BackendError(f"backend {spec.name!r}: folder {spec.weights!r} holds no {', '.join(missing)}")
    return folder


def user_config(spec: BackendSpec, role: str) -> Path:
    """The user's second file (`spec.config`), for models that are described by a config."""
    if not spec.config:
        raise BackendError(
            f"the {role} backend {spec.name!r} needs a config file beside the weights: set config in its BackendSpec "
            f"({user_weights(role, spec.name).file_format})"
        )
    return _existing(spec.config, spec.name)


def digest(path: Path) -> str:
    """sha256 of a file, remembered per path, size and time of change."""
    status = path.stat()
    return _digest(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    return file_sha256(Path(path))


def _require_name(spec: BackendSpec, role: str) -> None:
    if not spec.weights:
        row = user_weights(role, spec.name)
        raise BackendError(
            f"the {role} backend {spec.name!r} needs weights of your own: {row.description} ({row.file_format}). "
            f"Official source: {row.official}; licence: {row.licence}. Then set weights in the recipe's backend, "
            f'for example BackendSpec(name="{spec.name}", weights="{row.example}")'
        )


def _existing(name: str, backend: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise BackendError(f"backend {backend!r}: weights or config file {name!r} does not exist or is not a file")
    return path
