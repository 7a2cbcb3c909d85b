"""A corpus of synthetic clips in a folder: videos, truth beside each, and a manifest that curation can read.

Layout: `videos/NAME.mp4`, `truth/NAME.npz`, `records/NAME.json` (written last; it has the sha256 of both and the
configuration, so a finished clip is recognised and an altered one is made again), `corpus.csv`.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from lhmforge.datasets import storage
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.codecs import JsonValue, decode_json, encode_json
from lhmforge.datasets.config_json import to_json
from lhmforge.datasets.errors import CorpusError, ShardError, StorageError
from lhmforge.datasets.synthetic.clip import ClipConfig, render_clip
from lhmforge.datasets.synthetic.truth import ClipTruth
from lhmforge.datasets.synthetic.workers import Runner, in_processes

LICENCE = "CC0-1.0"
CHANNEL = "synthetic"
# x264's lookahead and adaptive quantisation give other bytes from run to run even with one thread.
_REPEATABLE = "mbtree=0:rc-lookahead=0:aq-mode=0"
RENDERER_VERSION = 3  # raise it when the same configuration gives other pixels
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSummary:
    """What a call did; `manifest` can be given to curation."""

    manifest: Path
    num_clips: int
    num_rendered: int


def clip_name(config: ClipConfig) -> str:
    """File name stem, also the source id of the clip's video."""
    return f"synthetic_{config.seed:04d}_{config.index:05d}"


def synthesize_corpus(
    template: ClipConfig,
    count: int,
    output: Path,
    body_path: Path,
    *,
    num_workers: int = 1,
    run: Runner | None = None,
    on_clip: Callable[[str], object] = lambda name: None,
) -> CorpusSummary:
    """Renders clips 0..count-1 of a seed into `output`; see `synthesize_clips`."""
    if count < 1:
        raise CorpusError(f"{count} clips asked for; at least one is needed")
    configs = [replace(template, index=index) for index in range(count)]
    return synthesize_clips(configs, output, body_path, num_workers=num_workers, run=run, on_clip=on_clip)


def synthesize_clips(
    configs: Sequence[ClipConfig],
    output: Path,
    body_path: Path,
    *,
    num_workers: int = 1,
    run: Runner | None = None,
    on_clip: Callable[[str], object] = lambda name: None,
) -> CorpusSummary:
    """Renders clips of different names into `output`; finished ones whose record verifies are kept.

    `run` says where clips are rendered (default: `num_workers` processes of this machine); the bytes are the same.
    Raises `BodyError` for an unusable body file, `StorageError` when the folder cannot be written.
    """
    assert len({clip_name(config) for config in configs}) == len(configs), "two clips of one name"
    digest = _body(body_path).digest
    missing = [config for config in configs if not _is_finished(config, output, digest)]
    for config in configs:
        if config not in missing:
            on_clip(clip_name(config))
    jobs = [_ClipJob(config=config, output=output, body_path=body_path) for config in missing]
    for name in (run or in_processes(num_workers))(_render, jobs):
        on_clip(name)
    manifest = output / "corpus.csv"
    storage.publish(manifest, (_manifest_bytes(configs),))
    return CorpusSummary(manifest=manifest, num_clips=len(configs), num_rendered=len(missing))


def read_truth(folder: Path) -> dict[str, ClipTruth]:
    """Source id -> truth of every finished clip of a corpus; raises `CorpusError` when there is none."""
    found = {}
    for record in sorted((folder / "records").glob("*.json")):
        path = folder / "truth" / f"{record.stem}.npz"
        found[record.stem] = ClipTruth.from_bytes(storage.read_bytes(path), what=str(path))
    if not found:
        raise CorpusError(f"{folder} holds no finished synthetic clip (made by `lhmforge synthesize`)")
    return found


def write_video(path: Path, frames: UInt8[np.ndarray, "N H W 3"], fps: float) -> storage.Published:
    """An H.264 file (4:2:0, near lossless), published atomically; one encoder thread: equal frames, equal bytes."""
    return storage.publish(path, (_encode_video(frames, fps),))


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClipJob:
    config: ClipConfig
    output: Path
    body_path: Path


@lru_cache(maxsize=1)
def _body(path: Path) -> BodyModel:
    return BodyModel.load(path)


def _render(job: _ClipJob) -> str:
    config, output = job.config, job.output
    body, name = _body(job.body_path), clip_name(config)
    clip = render_clip(config, body)
    video = write_video(output / "videos" / f"{name}.mp4", clip.frames, config.fps)
    truth = storage.publish(output / "truth" / f"{name}.npz", (clip.truth.to_bytes(),))
    record = _expected_record(config, body.digest) | {"video": video.sha256, "truth": truth.sha256}
    storage.publish(output / "records" / f"{name}.json", (encode_json(record),))
    return name


def _is_finished(config: ClipConfig, output: Path, body_digest: str) -> bool:
    name = clip_name(config)
    path = output / "records" / f"{name}.json"
    if not path.is_file():
        return False
    try:
        record = decode_json(path.read_bytes(), what=str(path))
        files = {
            "video": storage.file_digest(output / "videos" / f"{name}.mp4").sha256,
            "truth": storage.file_digest(output / "truth" / f"{name}.npz").sha256,
        }
    except (ShardError, StorageError) as error:
        _log.warning("%s: %s; rendering it again", name, error)
        return False
    return isinstance(record, Mapping) and dict(record) == {**_expected_record(config, body_digest), **files}


def _expected_record(config: ClipConfig, body_digest: str) -> dict[str, JsonValue]:
    plain = decode_json(encode_json(to_json(config)))
    return {"version": RENDERER_VERSION, "config": plain, "body_digest": body_digest}


def _manifest_bytes(configs: Sequence[ClipConfig]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "source_id", "channel", "licence", "identity"))
    for config in configs:
        name = clip_name(config)
        writer.writerow((f"videos/{name}.mp4", name, CHANNEL, LICENCE, "+".join(config.identities)))
    return text.getvalue().encode()


def _encode_video(frames: UInt8[np.ndarray, "N H W 3"], fps: float) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(fps))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"crf": "14", "preset": "veryfast", "x264-params": _REPEATABLE}
        stream.codec_context.thread_count = 1
        for image in frames:
            # Converted here: the library's own conversion is not repeatable to the bit.
            planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())
    return buffer.getvalue()
