"""Small stages with the shape of the real chain, some of which misbehave on demand, and a driver to kill."""

from __future__ import annotations

import os
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

import numpy as np

from lhmforge.datasets import storage
from lhmforge.datasets.records import (
    Clip,
    Likeness,
    PackedSample,
    Reject,
    Signature,
    SourceVideo,
    Track,
    TrackScores,
    Video,
)
from lhmforge.pipelines.corpus_pass import CorpusConfig
from lhmforge.pipelines.curation import CurationSummary, plan_curation, run_plan
from lhmforge.pipelines.stage import StageContext
from lhmforge.pipelines.stages.probe import ProbeStage
from lhmforge.pipelines.unit import UnitLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialShots:
    """Two clips per video; a third span is rejected."""

    name: ClassVar[str] = "shots"
    version: ClassVar[int] = 1
    accepts: ClassVar[type] = Video
    produces: ClassVar[type] = Clip

    def __call__(self, record: Video, context: StageContext) -> Iterator[Clip | Reject]:
        third = record.num_frames // 3
        for index in range(3):
            clip = Clip(video=record, first_frame=index * third, end_frame=(index + 1) * third)
            if index < 2:
                yield clip
            else:
                yield Reject(key=clip.key, source=record.source, stage="shots", reason="third", detail="every third")

    def weight_digests(self) -> Sequence[str]:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTrack:
    """The expensive stage: logs its calls, and does what the file name asks for (crash, hang, feast, fail)."""

    name: ClassVar[str] = "track"
    version: ClassVar[int] = 1
    accepts: ClassVar[type] = Clip
    produces: ClassVar[type] = Track

    setting: float = 1.0
    log: str = field(default="", repr=False)  # beside the fingerprint
    pause_s: float = field(default=0.0, repr=False)

    def __call__(self, record: Clip, context: StageContext) -> Iterator[Track | Reject]:
        source = record.video.source
        _note(self.log, "track", source)
        time.sleep(self.pause_s)
        if "crash" in source.source_id:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in source.source_id:
            time.sleep(600)
        if "feast" in source.source_id:
            _feast()
        if "fail" in source.source_id:
            raise RuntimeError("a bug in a stage")
        indices = np.arange(record.first_frame, record.end_frame, 2)
        means = [float(frame.mean()) for frame in context.frames(record.video, indices)]
        boxes = np.array([[mean, 0, mean + 1, 2] for mean in means], np.float32)
        yield Track(
            clip=record,
            person=0,
            frame_indices=indices.astype(np.int64),
            boxes_px=boxes,
            scores=np.ones(len(indices), np.float32),
            other_boxes_px=tuple(np.zeros((0, 4), np.float32) for _ in indices),
        )

    def weight_digests(self) -> Sequence[str]:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPack:
    """One sample per track, holding its boxes."""

    name: ClassVar[str] = "pack"
    version: ClassVar[int] = 1
    accepts: ClassVar[type] = Track
    produces: ClassVar[type] = PackedSample

    suffix: str = ""
    log: str = field(default="", repr=False)

    def __call__(self, record: Track, context: StageContext) -> Iterator[PackedSample | Reject]:
        clip = record.clip
        _note(self.log, "pack", clip.video.source)
        yield PackedSample(
            key=record.key,
            source=clip.video.source,
            members=(("boxes.bin", record.boxes_px.tobytes()), ("sample.json", b"{}" + self.suffix.encode())),
            scores=TrackScores(**{f.name: float("nan") if f.name == "face_px" else 1.5 for f in fields(TrackScores)}),
            num_frames=len(record.frame_indices),
            video_digest=clip.video.digest,
            first_frame=clip.first_frame,
            end_frame=clip.end_frame,
            person=0,
            body_digest="",
            signature=_signature(record),
            likeness=Likeness(face=np.eye(4, dtype=np.float32)[0], num_faces=2, body=np.eye(3, dtype=np.float32)[0]),
        )

    def weight_digests(self) -> Sequence[str]:
        return ()


def trial_stages(
    *, log: str = "", setting: float = 1.0, suffix: str = "", pause_s: float = 0.0, probe: ProbeStage | None = None
) -> tuple[ProbeStage, TrialShots, TrialTrack, TrialPack]:
    return (
        probe or ProbeStage(),
        TrialShots(),
        TrialTrack(log=log, setting=setting, pause_s=pause_s),
        TrialPack(log=log, suffix=suffix),
    )


def curate_trial(
    inputs: Sequence[str | Path],
    root: str | Path,
    *,
    workers: int = 0,
    videos_per_unit: int = 2,
    limits: UnitLimits | None = None,
    log: str = "",
    setting: float = 1.0,
    suffix: str = "",
    pause_s: float = 0.0,
    corpus: CorpusConfig | None = None,
) -> CurationSummary:
    """One run of the trial chain."""
    stages = trial_stages(log=log, setting=setting, suffix=suffix, pause_s=pause_s)
    plan = plan_curation(inputs, stages, root, limits=limits or UnitLimits(), videos_per_unit=videos_per_unit)
    return run_plan(plan, workers=workers, corpus=corpus)


def calls(log: str | Path, stage: str) -> Counter[str]:
    """Calls of a stage per source id."""
    if not Path(log).exists():
        return Counter()
    lines = [line.split("\t") for line in Path(log).read_text().splitlines()]
    return Counter(source for name, source in lines if name == stage)


def shard_digests(root: str | Path) -> dict[str, str]:
    """Name -> sha256 of every shard."""
    folder = storage.join_uri(root, "shards")
    return {name: storage.file_digest(storage.join_uri(folder, name)).sha256 for name in storage.list_files(folder)}


def _signature(record: Track) -> Signature:
    """Hashes that follow the boxes, so that equal footage has equal ones."""
    hashes = np.array([zlib.crc32(box.tobytes()) * 0x9E3779B97F4A7C15 % 2**64 for box in record.boxes_px], np.uint64)
    times = np.arange(len(hashes), dtype=np.float32) / 4
    return Signature(times_s=times, frame_hashes=hashes, person_hashes=hashes)


def _note(log: str, stage: str, source: SourceVideo) -> None:
    if log:
        with Path(log).open("a") as file:
            file.write(f"{stage}\t{source.source_id}\n")


def _feast() -> None:
    eaten = []
    for _ in range(600):
        eaten.append(np.ones(1 << 21))  # 16 MiB at a time
        time.sleep(0.02)


if __name__ == "__main__":
    curate_trial([sys.argv[1]], sys.argv[2], workers=int(sys.argv[3]), log=sys.argv[4], videos_per_unit=1, pause_s=0.3)
