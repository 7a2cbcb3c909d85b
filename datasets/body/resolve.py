"""Which body file to use: the user's own, or the free CC0 body that is built once and cached."""

from __future__ import annotations

from pathlib import Path

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.errors import BodyError


def body_path(user_path: str | None) -> Path:
    """The body file at `user_path`, or the free body for None or "free" (about a minute on first use)."""
    if user_path is None or user_path == "free":
        return free_body_path()
    path = Path(user_path).expanduser()
    if path.is_dir():
        for candidate in (path / "SMPLX_NEUTRAL.npz", path / "smplx" / "SMPLX_NEUTRAL.npz"):
            if candidate.is_file():
                return candidate
        raise BodyError(f"{path}: the folder holds no SMPLX_NEUTRAL.npz; give the path of the .npz file")
    if not path.is_file():
        raise BodyError(f'{path}: no such body model file; give an SMPL-X .npz file, or "free"')
    return path
