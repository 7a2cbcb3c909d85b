"""Writes frames as an H.264 mp4 that ordinary players and browsers show."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from lhmforge.datasets import storage
from lhmforge.datasets.errors import BackendError

_BITS_PER_PIXEL = 8  # of the whole video a second; renders are clean, so this is generous


def write_video(path: Path, frames: Iterable[UInt8[np.ndarray, "H W 3"]], *, fps: float) -> int:
    """Encodes RGB frames of one size and publishes the file atomically; returns the number of frames.

    A row or column is repeated where a size is odd, since 4:2:0 colour needs even ones.
    """
    with tempfile.TemporaryDirectory(prefix="lhmforge-") as folder:
        encoded = Path(folder) / "video.mp4"  # moving the index to the front needs a file that can be re-opened
        count = _encode(encoded, frames, fps)
        storage.publish(path, storage.read_chunks(encoded))
    return count


def _encode(path: Path, frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float) -> int:
    import av

    count = 0
    stream: Any = None
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        for image in frames:
            even = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
            if stream is None:
                stream = container.add_stream(_codec(), rate=Fraction(fps).limit_denominator(1001))
                stream.height, stream.width, stream.pix_fmt = *even.shape[:2], "yuv420p"
                stream.bit_rate = _BITS_PER_PIXEL * stream.height * stream.width
            assert even.shape[:2] == (stream.height, stream.width), "all frames of a video have one size"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
            count += 1
        assert stream is not None, "a video needs at least one frame"
        container.mux(stream.encode(None))
    return count


def _codec() -> str:
    import av

    for name in ("libx264", "libopenh264", "h264", "mpeg4"):
        try:
            av.Codec(name, "w")
        except ValueError:  # this build of the library has no such encoder
            continue
        return name
    raise BackendError("the installed PyAV has no H.264 or MPEG-4 encoder; reinstall it from its binary wheel")
