"""Small corpora with known content: every frame's colour says which sample and frame it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest

from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.manifest import Manifest, ManifestRow, accepted_row, write_manifest
from lhmforge.datasets.records import PackedSample, SourceVideo, TrackScores
from lhmforge.datasets.sample import SampleContent, StoredFrame, build_sample
from lhmforge.datasets.shards import write_shard


def known_scores(value: float = 1.0) -> TrackScores:
    return TrackScores(**{score.name: value for score in fields(TrackScores)})


def known_frame(number: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture of level `number` with a person-like block in the middle; the matte is the block."""
    image = np.full((height, width, 3), 40, np.uint8)
    alpha = np.zeros((height, width), np.uint8)
    rows, columns = slice(height // 5, 4 * height // 5), slice(width // 3, 2 * width // 3)
    image[rows, columns] = number
    alpha[rows, columns] = 255
    return image, alpha


def known_sample(
    key: str, *, num_frames: int = 6, level: int = 100, identity: str = "", channel: str = "", video: str = ""
) -> PackedSample:
    """Frame `i` has grey level `level + 8 i` and its own size; the body turns from frontal at 0 towards profile."""
    sizes = [(48 + 2 * index, 80 + 4 * index) for index in range(num_frames)]
    frames = [StoredFrame.encode(*known_frame(level + 8 * index, *size)) for index, size in enumerate(sizes)]
    body = BodyParams.rest(num_frames)
    body.global_orient[:, 0] = np.pi  # upright in the OpenCV camera: +y of the body is up
    body.transl[:, 0] = np.arange(num_frames)
    points = np.zeros((num_frames, 133, 2), np.float32)
    points[:, :5] = [[24, 20], [26, 18], [22, 18], [28, 19], [20, 19]]
    scores = np.zeros((num_frames, 133), np.float32)
    scores[:, :5] = 1.0
    intrinsics = np.stack([[[100, 0, w / 2], [0, 100, h / 2], [0, 0, 1]] for w, h in sizes]).astype(np.float32)
    content = SampleContent(
        frames=frames,
        body=body,
        points_px=points,
        point_scores=scores,
        intrinsics=intrinsics,
        world_to_camera=np.tile(np.eye(4, dtype=np.float32), (num_frames, 1, 1)),
        frame_indices=np.arange(num_frames, dtype=np.int64) * 2,
        fps=25.0,
    )
    return build_sample(
        content,
        key=key,
        source=SourceVideo(uri=f"/videos/{key}.mp4", source_id=key, identity=identity, channel=channel),
        scores=known_scores(),
        video_digest=video or f"digest-{key}",
        first_frame=0,
        end_frame=2 * num_frames - 1,
        person=0,
        body_digest="b" * 64,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A written manifest and what went into it."""

    manifest: Manifest
    samples: dict[str, PackedSample]


def write_corpus(folder: Path, samples: list[PackedSample], *, per_shard: int = 4) -> Corpus:
    rows: list[ManifestRow] = []
    by_key = {sample.key: sample for sample in samples}
    for number, start in enumerate(range(0, len(samples), per_shard)):
        name = f"shards/{number:04d}.tar"
        info = write_shard(folder / name, samples[start : start + per_shard])
        rows += [
            accepted_row(by_key[entry.key], shard=name, entry=entry, fingerprint="f", cost_s={"fit": float(number)})
            for entry in info.entries
        ]
    return Corpus(manifest=write_manifest(folder / "manifest.parquet", rows), samples=by_key)


@pytest.fixture
def make_sample() -> Callable[..., PackedSample]:
    return known_sample


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Corpus]:
    def make(samples: list[PackedSample], *, per_shard: int = 4, name: str = "corpus") -> Corpus:
        return write_corpus(tmp_path / name, samples, per_shard=per_shard)

    return make


@pytest.fixture(scope="session")
def ten_samples(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Ten samples of 3 to 6 frames in three shards."""
    samples = [known_sample(f"s{number:02d}", num_frames=3 + number % 4, level=20 * number) for number in range(10)]
    return write_corpus(tmp_path_factory.mktemp("ten"), samples)
