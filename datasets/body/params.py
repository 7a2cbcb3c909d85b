"""SMPL-X pose and shape parameters of one track, as stored on disk."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Float32

from lhmforge.datasets.errors import BodyError

NUM_BETAS = 10
NUM_EXPRESSION = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyParams:
    """SMPL-X parameters of `N` frames of one person; ONE shape for the whole track.

    Rotations are axis-angle in radians, joints in SMPL-X order; `transl` is in metres. Frame: the world of the
    sample (for a monocular clip the OpenCV camera: x right, y down, z forward). `transl` is SMPL-X's: the pelvis
    lands at `J_pelvis(betas) + transl`.
    """

    betas: Float32[np.ndarray, " B"]
    expression: Float32[np.ndarray, "N E"]
    global_orient: Float32[np.ndarray, "N 3"]
    body_pose: Float32[np.ndarray, "N 21 3"]
    jaw_pose: Float32[np.ndarray, "N 3"]
    leye_pose: Float32[np.ndarray, "N 3"]
    reye_pose: Float32[np.ndarray, "N 3"]
    left_hand_pose: Float32[np.ndarray, "N 15 3"]
    right_hand_pose: Float32[np.ndarray, "N 15 3"]
    transl: Float32[np.ndarray, "N 3"]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            assert field.name == "betas" or len(value) == len(self.transl), f"{field.name} is not as long as transl"
            if not np.isfinite(value).all():
                raise BodyError(f"body parameters: {field.name} holds a value that is not finite")

    @property
    def num_frames(self) -> int:
        return len(self.transl)

    def select(self, indices: np.ndarray) -> BodyParams:
        """The frames `indices` (int, [M]) of this track, same shape parameters."""
        per_frame = {f.name: getattr(self, f.name)[indices] for f in fields(self) if f.name != "betas"}
        return replace(self, **per_frame)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Name -> float32 array, the content of `body.npz`."""
        return {f.name: np.asarray(getattr(self, f.name), np.float32) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> BodyParams:
        """Inverse of `to_arrays`; raises `BodyError` naming any missing or unknown array."""
        expected = {f.name for f in fields(cls)}
        if set(arrays) != expected:
            raise BodyError(f"body parameters: expected arrays {sorted(expected)}, found {sorted(arrays)}")
        num_frames = len(arrays["transl"])
        for name in sorted(expected - {"betas"}):
            if len(arrays[name]) != num_frames:
                raise BodyError(f"body parameters: {name} has {len(arrays[name])} frames, transl has {num_frames}")
        return cls(**{name: np.asarray(value, np.float32) for name, value in arrays.items()})

    @classmethod
    def rest(cls, num_frames: int, *, num_betas: int = NUM_BETAS, num_expression: int = NUM_EXPRESSION) -> BodyParams:
        """Zero pose, mean shape, zero translation."""

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, np.float32)

        return cls(
            betas=zeros(num_betas),
            expression=zeros(num_frames, num_expression),
            global_orient=zeros(num_frames, 3),
            body_pose=zeros(num_frames, 21, 3),
            jaw_pose=zeros(num_frames, 3),
            leye_pose=zeros(num_frames, 3),
            reye_pose=zeros(num_frames, 3),
            left_hand_pose=zeros(num_frames, 15, 3),
            right_hand_pose=zeros(num_frames, 15, 3),
            transl=zeros(num_frames, 3),
        )
