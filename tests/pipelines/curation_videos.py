"""Small videos for tests, written with PyAV: people are blobs of saturated colour on grey."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RED, GREEN, BLUE = (230, 20, 20), (20, 220, 20), (30, 30, 235)
IDENTITY = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


def person_frame(width: int, height: int, *, centre: float, colour: tuple[int, int, int]) -> np.ndarray:
    """A grey frame with one upright painted figure (head, trunk with arms, legs), `centre` in 0..1 of the width."""
    frame = np.full((height, width, 3), 96, np.uint8)
    tall, x = 0.8 * height, centre * width
    top = 0.1 * height
    for y0, y1, half in ((0.0, 0.13, 0.05), (0.13, 0.5, 0.16), (0.5, 1.0, 0.09)):
        columns = slice(max(0, round(x - half * tall)), round(x + half * tall))
        frame[round(top + y0 * tall) : round(top + y1 * tall), columns] = colour
    return frame


def write_video(
    path: Path,
    *,
    width: int = 192,
    height: int = 256,
    num_frames: int = 24,
    fps: int = 24,
    colour: tuple[int, int, int] | None = RED,
    pixel_format: str = "yuv420p",
    codec: str = "libx264",
    variable: bool = False,
    audio: bool = False,
) -> Path:
    """A person who walks from left to right; with `variable`, frames come at uneven times; no person without `colour`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "12"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if variable:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=16000, layout="mono") if audio else None
        for index in range(num_frames):
            if colour is None:
                image = np.full((height, width, 3), 60 + index % 3, np.uint8)
            else:
                image = person_frame(width, height, centre=0.35 + 0.3 * index / max(num_frames, 1), colour=colour)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if variable:
                frame.time_base, frame.pts = Fraction(1, 1000), index * 33 + (index % 3) * 9 + 400 * (index > 8)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
        if sound is not None:
            _add_silence(container, sound)
    return path


def write_audio_only(path: Path) -> Path:
    """An mp4 with a sound track alone."""
    with av.open(str(path), "w") as container:
        _add_silence(container, container.add_stream("aac", rate=16000, layout="mono"))
    return path


def write_without_frames(path: Path) -> Path:
    """A container that announces a video stream and holds no packet of it."""
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 192, 256, "yuv420p"
        container.start_encoding()
    return path


def rotated(source: Path, path: Path, degrees: int) -> Path:
    """A copy of an mp4 whose display matrix turns it clockwise by a multiple of 90 degrees."""
    data = source.read_bytes()
    header = data.index(b"tkhd")
    offset = header + 4 + 4 + (20 if data[header + 4] == 0 else 32) + 16
    assert struct.unpack(">9i", data[offset : offset + 36]) == IDENTITY
    sine, cosine = round(math.sin(math.radians(degrees))), round(math.cos(math.radians(degrees)))
    turn = (cosine * 65536, sine * 65536, 0, -sine * 65536, cosine * 65536, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:offset] + struct.pack(">9i", *turn) + data[offset + 36 :])
    return path


def _add_silence(container: av.container.OutputContainer, stream: av.AudioStream) -> None:
    for index in range(8):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, index * 1024
        for packet in stream.encode(frame):
            container.mux(packet)
    for packet in stream.encode():
        container.mux(packet)
