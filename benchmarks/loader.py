"""The data loader alone: samples per second, against what decoding their pictures alone would allow.

Run: python benchmarks/loader.py --data manifest.parquet --processes 0 1 2 --seconds 10

The limit is the time that decoding takes of exactly the pictures that a training sample needs (one JPEG and one PNG per
distinct frame), on one core, everything else left out. The ratio says what the loader adds: reading, checking digests,
cutting, resizing, stacking, and carrying batches between processes. Decoders that this project depends on anyway are
compared on the same bytes. Parts are measured in seconds of the processor, rates by the clock on the wall.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from lhmforge.datasets.codecs import decode_jpeg, decode_png
from lhmforge.datasets.draws import SampleIndex, build_index
from lhmforge.datasets.loader import BatchLoader, LoaderConfig
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.sample import parse_sample
from lhmforge.datasets.sampling import choose_frames, training_example
from lhmforge.datasets.shards import read_sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--processes", type=int, nargs="+", default=[0, 1, 2], help="0: in the calling process")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[384, 640], help="of sources and targets, pixels")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    manifest = Manifest.load(args.data)
    size = (args.size[0], args.size[1])
    config = LoaderConfig(
        batch_size=args.batch, num_target_views=args.views, source_size=size, target_size=size, head_size=448
    )
    index = build_index(manifest, manifest.ids())
    parts = one_sample_ms(index, config, args.seconds)
    limit = 1000.0 / (parts["decode_jpeg"] + parts["decode_png"])
    rates = {n: samples_per_s(manifest, replace(config, num_workers=n), args.seconds) for n in args.processes}
    result = {
        "frames_px": list(frame_size(index)),
        "ms_per_sample": {name: round(value, 2) for name, value in parts.items()},
        "decode_limit_samples_per_s": round(limit, 2),
        "samples_per_s": {str(n): round(rate, 2) for n, rate in rates.items()},
        "share_of_limit_per_process": {str(n): round(rate / max(1, n) / limit, 3) for n, rate in rates.items()},
        "jpeg_decoders_ms": {name: round(value, 2) for name, value in decoders_ms(index, args.seconds / 4).items()},
    }
    print(json.dumps(result, indent=1), flush=True)


def samples_per_s(manifest: Manifest, config: LoaderConfig, seconds: float) -> float:
    """After two batches per process, so that starting them is left out."""
    batches = iter(BatchLoader(config, manifest, manifest.ids()))
    for _ in range(2 * max(1, config.num_workers)):
        next(batches)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        count += next(batches).num_samples
    return count / (time.perf_counter() - started)


def one_sample_ms(index: SampleIndex, config: LoaderConfig, seconds: float) -> dict[str, float]:
    """Mean milliseconds of the parts of making one sample."""
    sums = dict.fromkeys(("read_and_check", "decode_jpeg", "decode_png", "whole_example"), 0.0)
    count, ends = 0, time.perf_counter() + seconds
    for number in itertools.cycle(range(len(index))):
        entry, uri = index.entries[number], index.shard_uris[int(index.shard_of[number])]
        clock = _Clock(sums)
        sample = parse_sample(read_sample(uri, entry, verify=True))
        clock.stop("read_and_check")
        rng = np.random.default_rng([0, count])
        frames = choose_frames(sample.num_frames, config.num_target_views, config.chunked_probability, rng)
        names = [f"{int(frame):04d}" for frame in sorted(set(frames))]
        clock = _Clock(sums)
        for name in names:
            decode_jpeg(sample.members[f"frame_{name}.jpg"])
        clock.stop("decode_jpeg")
        for name in names:
            decode_png(sample.members[f"alpha_{name}.png"])
        clock.stop("decode_png")
        training_example(sample, config, np.random.default_rng([0, count]))
        clock.stop("whole_example")
        count += 1
        if time.perf_counter() > ends:
            break
    means = {name: 1e3 * value / count for name, value in sums.items()}
    cut = means.pop("whole_example") - means["decode_jpeg"] - means["decode_png"]
    return {**means, "cut_and_resize": cut}


def decoders_ms(index: SampleIndex, seconds: float) -> dict[str, float]:
    """Milliseconds of each JPEG decoder on one frame per sample; RGB pixels as a numpy array."""
    jpegs = [_first_jpeg(index, number) for number in range(min(8, len(index)))]
    decoders: dict[str, Callable[[bytes], object]] = {
        "cv2 (header checked, as the loader does)": decode_jpeg,
        "cv2 alone": lambda data: cv2.cvtColor(
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
        ),
        "cv2, RGB from the decoder": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB),
        "cv2 at half the size": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_2),
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
    }
    return {name: _median_ms(decode, jpegs, seconds) for name, decode in decoders.items()}


def frame_size(index: SampleIndex) -> tuple[int, int]:
    """Width and height of the first frame."""
    with Image.open(io.BytesIO(_first_jpeg(index, 0))) as image:
        return image.size


def _first_jpeg(index: SampleIndex, number: int) -> bytes:
    uri = index.shard_uris[int(index.shard_of[number])]
    return parse_sample(read_sample(uri, index.entries[number])).members["frame_0000.jpg"]


def _median_ms(decode: Callable[[bytes], object], jpegs: list[bytes], seconds: float) -> float:
    times, ends = [], time.perf_counter() + seconds
    while time.perf_counter() < ends or not times:
        started = time.process_time()
        for data in jpegs:
            decode(data)
        times.append((time.process_time() - started) / len(jpegs))
    return 1e3 * statistics.median(times)


class _Clock:
    """Adds the time since the last stop to a part."""

    def __init__(self, sums: dict[str, float]) -> None:
        self._sums, self._since = sums, time.process_time()

    def stop(self, part: str) -> None:
        now = time.process_time()
        self._sums[part] += now - self._since
        self._since = now


if __name__ == "__main__":
    main()
