"""The truth beside a synthetic clip: exact bodies, camera, mattes and keypoints, as one npz file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.codecs import decode_npz, decode_png, encode_npz, encode_png
from lhmforge.datasets.errors import ShardError

TRUTH_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonTruth:
    """One person over all `N` frames of the clip; the body is in OpenCV camera coordinates.

    `boxes_px` (x0, y0, x1, y1) enclose the dressed person as if nobody stood before them, inside the picture;
    `visible_share` is the share of their pixels that nobody hides.
    """

    body: BodyParams
    points_px: Float32[np.ndarray, "N 133 2"]
    visible: Bool[np.ndarray, "N 133"]
    alpha_pngs: tuple[bytes, ...]
    boxes_px: Float32[np.ndarray, "N 4"]
    visible_share: Float32[np.ndarray, " N"]

    def alpha(self, frame: int) -> UInt8[np.ndarray, "H W"]:
        """The exact matte of one frame."""
        return decode_png(self.alpha_pngs[frame], what=f"true matte of frame {frame}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTruth:
    """What is known exactly about one synthetic clip."""

    fps: float
    intrinsics: Float32[np.ndarray, "3 3"]
    body_digest: str
    persons: tuple[PersonTruth, ...]

    @property
    def num_frames(self) -> int:
        return self.persons[0].body.num_frames

    def to_bytes(self) -> bytes:
        """The npz file; same truth, same bytes."""
        arrays: dict[str, np.ndarray] = {
            "version": np.array([TRUTH_VERSION]),
            "fps": np.array([self.fps]),
            "intrinsics": self.intrinsics,
            "body_digest": np.frombuffer(self.body_digest.encode(), np.uint8),
            "num_persons": np.array([len(self.persons)]),
        }
        for index, person in enumerate(self.persons):
            prefix = f"p{index:02d}_"
            arrays |= {f"{prefix}body_{name}": array for name, array in person.body.to_arrays().items()}
            arrays[f"{prefix}points_px"] = person.points_px
            arrays[f"{prefix}visible"] = person.visible
            arrays[f"{prefix}boxes_px"] = person.boxes_px
            arrays[f"{prefix}visible_share"] = person.visible_share
            arrays[f"{prefix}alpha_sizes"] = np.array([len(png) for png in person.alpha_pngs])
            arrays[f"{prefix}alpha_bytes"] = np.frombuffer(b"".join(person.alpha_pngs), np.uint8)
        return encode_npz(arrays)

    @classmethod
    def from_bytes(cls, data: bytes, *, what: str) -> ClipTruth:
        """Inverse of `to_bytes`; raises `ShardError` naming `what` for another or a damaged file."""
        arrays = decode_npz(data, what=what)
        if "version" not in arrays or "num_persons" not in arrays:
            raise ShardError(f"{what} is not the truth of a synthetic clip")
        if int(arrays["version"][0]) != TRUTH_VERSION:
            raise ShardError(
                f"{what} has version {int(arrays['version'][0])}, this program reads {TRUTH_VERSION}: "
                "run `lhmforge synthesize` again"
            )
        return cls(
            fps=float(arrays["fps"][0]),
            intrinsics=arrays["intrinsics"].astype(np.float32),
            body_digest=arrays["body_digest"].tobytes().decode(),
            persons=tuple(_person(arrays, f"p{index:02d}_") for index in range(int(arrays["num_persons"][0]))),
        )


def encode_alphas(alphas: UInt8[np.ndarray, "N H W"]) -> tuple[bytes, ...]:
    """Mattes as PNG files."""
    return tuple(encode_png(alpha) for alpha in alphas)


def _person(arrays: Mapping[str, np.ndarray], prefix: str) -> PersonTruth:
    body_prefix = f"{prefix}body_"
    body = {name.removeprefix(body_prefix): a for name, a in arrays.items() if name.startswith(body_prefix)}
    ends = np.cumsum(arrays[f"{prefix}alpha_sizes"]).tolist()
    packed = arrays[f"{prefix}alpha_bytes"].tobytes()
    return PersonTruth(
        body=BodyParams.from_arrays(body),
        points_px=arrays[f"{prefix}points_px"].astype(np.float32),
        visible=arrays[f"{prefix}visible"].astype(bool),
        alpha_pngs=tuple(packed[start:end] for start, end in zip([0, *ends], ends, strict=False)),
        boxes_px=arrays[f"{prefix}boxes_px"].astype(np.float32),
        visible_share=arrays[f"{prefix}visible_share"].astype(np.float32),
    )
