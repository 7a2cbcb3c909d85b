"""Files that only the user can supply: licensed or very large models, and how each is pointed to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFile:
    """One model that is not on a package registry or not free for every use."""

    role: str
    model: str
    licence: str
    source: str
    how_to_use: str


USER_FILES: tuple[UserFile, ...] = (
    UserFile(
        role="body",
        model="SMPLX_NEUTRAL.npz",
        licence="SMPL-X licence, non-commercial (commercial licence on request)",
        source="SMPL-X project site, registration needed",
        how_to_use="--body PATH of `curate`, `train`, `synthesize`, `animate`",
    ),
)
