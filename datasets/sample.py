"""The sample on disk: which members it has, and the one writer and reader of them.

Members (tar names are `KEY.MEMBER`): `sample.json`; `frame_0000.jpg`.. and `alpha_0000.png`.. (frames of a sample may
differ in size); `body.npz` (`BodyParams`); `keypoints.npz` (`points_px` float32 [N, 133, 2] in stored-frame pixels,
`scores` float32 [N, 133]); `camera.npz` (`intrinsics` float32 [N, 3, 3] of the stored frames, `world_to_camera` float32
[N, 4, 4], OpenCV axes). Numbers mean what `cameras` and `BodyParams` say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.codecs import (
    JsonValue,
    decode_jpeg,
    decode_json,
    decode_npz,
    decode_png,
    encode_jpeg,
    encode_json,
    encode_npz,
    encode_png,
)
from lhmforge.datasets.errors import BodyError, ShardError
from lhmforge.datasets.records import PackedSample, SourceVideo, TrackScores
from lhmforge.datasets.shards import ShardSample

SAMPLE_VERSION = 1
MAX_FRAMES = 10_000  # four digits in a member's name


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFrame:
    """One encoded frame and its matte; both have the size `width_px` x `height_px`."""

    jpeg: bytes
    png: bytes
    width_px: int
    height_px: int

    @classmethod
    def encode(
        cls, image: UInt8[np.ndarray, "H W 3"], alpha: UInt8[np.ndarray, "H W"], *, quality: int = 92
    ) -> StoredFrame:
        """Encodes an RGB frame and its 8-bit alpha."""
        assert image.shape[:2] == alpha.shape, f"frame is {image.shape[:2]}, alpha is {alpha.shape}"
        height, width = alpha.shape
        return cls(jpeg=encode_jpeg(image, quality=quality), png=encode_png(alpha), width_px=width, height_px=height)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleContent:
    """Everything of a sample but its place in the corpus; `N` frames, in time order (or view order, for scans).

    `frame_values` are extra numbers per frame that a report may show (for example reprojection error), each [N].
    """

    frames: Sequence[StoredFrame]
    body: BodyParams
    points_px: Float32[np.ndarray, "N 133 2"]
    point_scores: Float32[np.ndarray, "N 133"]
    intrinsics: Float32[np.ndarray, "N 3 3"]
    world_to_camera: Float32[np.ndarray, "N 4 4"]
    frame_indices: Int64[np.ndarray, " N"]
    fps: float
    frame_values: Mapping[str, Float32[np.ndarray, " N"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {
            "body": self.body.num_frames,
            "points_px": len(self.points_px),
            "point_scores": len(self.point_scores),
            "intrinsics": len(self.intrinsics),
            "world_to_camera": len(self.world_to_camera),
            "frame_indices": len(self.frame_indices),
            **{name: len(values) for name, values in self.frame_values.items()},
        }
        wrong = {name: length for name, length in lengths.items() if length != len(self.frames)}
        assert not wrong, f"{len(self.frames)} frames but {wrong}"
        assert 0 < len(self.frames) <= MAX_FRAMES, f"a sample holds 1 to {MAX_FRAMES} frames, not {len(self.frames)}"


def build_sample(
    content: SampleContent,
    *,
    key: str,
    source: SourceVideo,
    scores: TrackScores,
    video_digest: str,
    first_frame: int,
    end_frame: int,
    person: int,
    body_digest: str,
) -> PackedSample:
    """The sample's members as bytes. The source's URI stays out of them, so that moved videos give equal bytes."""
    members = {
        "body.npz": encode_npz(content.body.to_arrays()),
        "keypoints.npz": encode_npz({"points_px": content.points_px, "scores": content.point_scores}),
        "camera.npz": encode_npz({"intrinsics": content.intrinsics, "world_to_camera": content.world_to_camera}),
    }
    for index, frame in enumerate(content.frames):
        members[f"frame_{index:04d}.jpg"] = frame.jpeg
        members[f"alpha_{index:04d}.png"] = frame.png
    lineage: dict[str, JsonValue] = {
        "source_id": source.source_id,
        "channel": source.channel,
        "licence": source.licence,
        "identity": source.identity,
        "video_digest": video_digest,
        "first_frame": first_frame,
        "end_frame": end_frame,
        "person": person,
        "body_digest": body_digest,
    }
    members["sample.json"] = encode_json(
        {"key": key, "lineage": lineage, "scores": asdict(scores), **_summary(content)}
    )
    return PackedSample(
        key=key,
        source=source,
        members=tuple(sorted(members.items())),
        scores=scores,
        num_frames=len(content.frames),
        video_digest=video_digest,
        first_frame=first_frame,
        end_frame=end_frame,
        person=person,
        body_digest=body_digest,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSample:
    """A sample as read: small arrays decoded, pictures decoded one at a time on demand."""

    key: str
    members: Mapping[str, bytes]
    meta: Mapping[str, JsonValue]
    body: BodyParams
    points_px: Float32[np.ndarray, "N 133 2"]
    point_scores: Float32[np.ndarray, "N 133"]
    intrinsics: Float32[np.ndarray, "N 3 3"]
    world_to_camera: Float32[np.ndarray, "N 4 4"]

    @property
    def num_frames(self) -> int:
        return len(self.intrinsics)

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The RGB frame `index`; raises `ShardError` if its member is missing or damaged."""
        name = f"frame_{index:04d}.jpg"
        return decode_jpeg(_member(self.key, self.members, name), what=f"{self.key}.{name}")

    def alpha(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """The 8-bit matte of frame `index`; raises `ShardError` if its member is missing or damaged."""
        name = f"alpha_{index:04d}.png"
        return decode_png(_member(self.key, self.members, name), what=f"{self.key}.{name}")


def parse_sample(sample: ShardSample) -> StoredSample:
    """Checks and decodes what is small; raises `ShardError` naming the sample and member that is wrong."""
    meta = decode_json(_member(sample.key, sample.members, "sample.json"), what=f"{sample.key}.sample.json")
    version = meta.get("version") if isinstance(meta, Mapping) else None
    if not isinstance(meta, Mapping) or version != SAMPLE_VERSION:
        raise ShardError(f"sample {sample.key} has version {version}; this program reads version {SAMPLE_VERSION}")
    try:
        body = BodyParams.from_arrays(_arrays(sample, "body.npz"))
    except BodyError as error:
        raise ShardError(f"sample {sample.key}: {error}") from error
    keypoints = _named_arrays(sample, "keypoints.npz", {"points_px": (133, 2), "scores": (133,)}, body.num_frames)
    camera = _named_arrays(sample, "camera.npz", {"intrinsics": (3, 3), "world_to_camera": (4, 4)}, body.num_frames)
    return StoredSample(
        key=sample.key,
        members=sample.members,
        meta=meta,
        body=body,
        points_px=keypoints["points_px"],
        point_scores=keypoints["scores"],
        intrinsics=camera["intrinsics"],
        world_to_camera=camera["world_to_camera"],
    )


def _summary(content: SampleContent) -> dict[str, JsonValue]:
    return {
        "version": SAMPLE_VERSION,
        "fps": content.fps,
        "num_frames": len(content.frames),
        "frame_indices": content.frame_indices.tolist(),
        "sizes_px": [[frame.width_px, frame.height_px] for frame in content.frames],
        "frame_values": {name: values.tolist() for name, values in content.frame_values.items()},
    }


def _member(key: str, members: Mapping[str, bytes], name: str) -> bytes:
    if name not in members:
        raise ShardError(f"sample {key} has no member {name}; its shard was not written by this program")
    return members[name]


def _arrays(sample: ShardSample, name: str) -> dict[str, np.ndarray]:
    return decode_npz(_member(sample.key, sample.members, name), what=f"{sample.key}.{name}")


def _named_arrays(
    sample: ShardSample, name: str, shapes: Mapping[str, tuple[int, ...]], num_frames: int
) -> dict[str, np.ndarray]:
    arrays = _arrays(sample, name)
    for array_name, shape in shapes.items():
        found = arrays[array_name].shape if array_name in arrays else None
        if found != (num_frames, *shape):
            raise ShardError(f"{sample.key}.{name}: {array_name} has shape {found}, expected {(num_frames, *shape)}")
    return {array_name: np.asarray(arrays[array_name], np.float32) for array_name in shapes}
