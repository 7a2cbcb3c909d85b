"""The process that decodes: the only place where bytes of unknown origin meet a demuxer or a decoder.

It answers requests on its standard input (one JSON line each) on its standard output (8 bytes of length, a JSON header,
then `payload_bytes` raw bytes). It limits its own memory, opens local files only, and accepts plain media containers
only, no playlists. Whatever it does, `pipelines.video` sees an answer, an end of file, or a timeout.

decord decodes, rotation included. It misreads frames narrower than its row alignment (decord2 3.4.0 takes 48 RGB pixels
padded to 192 bytes for 48 pixels of four channels), so that PyAV decodes those.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import av
import numpy as np

from lhmforge.datasets.errors import VideoError

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf"
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
MAX_PACKETS = 2_000_000
DECORD_MIN_WIDTH = 256  # four times what its alignment of 64 bytes could confuse


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What the container and the first frame say; sizes are those of the displayed frame."""

    container: str
    codec: str
    width_px: int
    height_px: int
    rotation_deg: int  # clockwise turn from the coded to the displayed frame: 0, 90, 180 or 270
    num_frames: int
    fps: float  # mean rate; with a variable frame rate the frames are still counted one by one
    duration_s: float
    bit_depth: int


@runtime_checkable
class FrameReader(Protocol):
    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Displayed RGB frames, uint8 [n, H, W, 3]; `indices` ascend."""
        ...


class DecordReader:
    """Random access through decord."""

    def __init__(self, path: str) -> None:
        import decord

        self._reader = decord.VideoReader(path, num_threads=1)

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        frames: np.ndarray = self._reader.get_batch(list(indices)).asnumpy()
        return frames


class NarrowReader:
    """Sequential decoding through PyAV with the display matrix applied; goes back to the start when asked for less."""

    def __init__(self, path: str, num_frames: int) -> None:
        self._path, self._num_frames = path, num_frames
        self._next, self._frames = 0, self._decode()

    def __len__(self) -> int:
        return self._num_frames

    def read(self, indices: Sequence[int]) -> np.ndarray:
        if indices[0] < self._next:
            self._next, self._frames = 0, self._decode()
        return np.stack([self._advance_to(index) for index in indices])

    def _advance_to(self, index: int) -> np.ndarray:
        for frame in self._frames:
            self._next += 1
            if self._next > index:
                upright = np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90) % 4)
                return np.ascontiguousarray(upright)
        raise VideoError(f"decoding ended at frame {self._next}, frame {index} was asked for", reason="truncated")

    def _decode(self) -> Iterator[av.VideoFrame]:
        with av.open(self._path, options=OPEN_OPTIONS, metadata_errors="ignore") as container:
            yield from container.decode(container.streams.video[0])


@dataclass(frozen=True, slots=True)
class _Packets:
    count: int
    first_s: float
    last_s: float
    end_s: float


def probe(path: str, *, max_pixels: int) -> VideoInfo:
    """Reads the container, counts the packets, and decodes the first, middle and last frame.

    Raises `VideoError` with reason `unreadable`, `truncated`, `no_video_stream`, `zero_duration`, `too_large` or
    `undecodable`.
    """
    _refuse_cut_boxes(path)
    with _opened(path) as container:
        stream = _video_stream(container)
        coded = stream.codec_context
        if coded.width * coded.height > max_pixels:
            raise VideoError(f"{coded.width} x {coded.height} pixels; at most {max_pixels} in all", reason="too_large")
        packets = _count_packets(container, stream)
        if packets.count == 0 or packets.end_s <= packets.first_s:
            raise VideoError(f"the video stream holds {packets.count} frames and no time", reason="zero_duration")
        _refuse_early_end(container, packets)
        rotation = _rotation(container, stream)
        rate = float(stream.average_rate or stream.guessed_rate or 0) or 25.0
        names = container.format.name.split(",")
        codec, bit_depth = coded.codec.name, _bit_depth(stream)
        displayed_width = _displayed_width(coded, rotation)
    reader = _open_reader(path, displayed_width, packets.count)
    ends = sorted({0, len(reader) // 2, len(reader) - 1})
    height, width = _read(reader, ends).shape[1:3]
    span_s = packets.last_s - packets.first_s
    fps = (packets.count - 1) / span_s if packets.count > 1 and span_s > 0 else rate
    return VideoInfo(
        container="mp4" if "mp4" in names else names[0],
        codec=codec,
        width_px=width,
        height_px=height,
        rotation_deg=rotation,
        num_frames=len(reader),
        fps=round(fps, 6),
        duration_s=round(packets.end_s - packets.first_s, 6),
        bit_depth=bit_depth,
    )


def open_reader(path: str) -> FrameReader:
    """A reader of displayed frames, after the container was opened under the restrictions of `OPEN_OPTIONS`."""
    with _opened(path) as container:
        stream = _video_stream(container)
        width = _displayed_width(stream.codec_context, _rotation(container, stream))
    if width >= DECORD_MIN_WIDTH:
        return _open_reader(path, width, 0)
    with _opened(path) as container:
        return _open_reader(path, width, _count_packets(container, _video_stream(container)).count)


def _displayed_width(coded: av.VideoCodecContext, rotation: int) -> int:
    return int(coded.height if rotation in (90, 270) else coded.width)


def _open_reader(path: str, width: int, num_packets: int) -> FrameReader:
    if width < DECORD_MIN_WIDTH:
        return NarrowReader(path, num_packets)
    import decord

    try:
        return DecordReader(path)
    except (decord.DECORDError, RuntimeError, AssertionError) as error:
        raise VideoError(f"decord cannot open it: {_last_line(error)}") from error


def _read(reader: FrameReader, indices: Sequence[int]) -> np.ndarray:
    import decord

    try:
        frames = reader.read(indices)
    except (decord.DECORDError, RuntimeError, av.error.FFmpegError, IndexError) as error:
        raise VideoError(f"frames {indices[0]} to {indices[-1]} cannot be decoded: {_last_line(error)}") from error
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise VideoError(f"frames of shape {frames.shape[1:]} instead of RGB")
    return frames


def _opened(path: str) -> av.container.InputContainer:
    try:
        return av.open(path, options=OPEN_OPTIONS, metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"no demuxer can open it: {_last_line(error)}", reason="unreadable") from error


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(s.type for s in container.streams) or "none"
        raise VideoError(f"no video stream (streams: {kinds})", reason="no_video_stream")
    return streams[0]


def _count_packets(container: av.container.InputContainer, stream: av.VideoStream) -> _Packets:
    """Counts frames by their packets, with the span of their presentation times; decodes nothing."""
    count, first_s, last_s, end_s = 0, float("inf"), float("-inf"), float("-inf")
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            count += 1
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None:
                time_s, length_s = float(stamp * packet.time_base), float((packet.duration or 0) * packet.time_base)
                first_s, last_s, end_s = min(first_s, time_s), max(last_s, time_s), max(end_s, time_s + length_s)
            if count > MAX_PACKETS:
                raise VideoError(f"more than {MAX_PACKETS} frames", reason="too_long")
    except av.error.FFmpegError as error:
        raise VideoError(
            f"the container breaks after {count} frames: {_last_line(error)}", reason="truncated"
        ) from error
    if count and first_s == float("inf"):  # no time stamps at all: a raw stream in a poor container
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        return _Packets(count, 0.0, (count - 1) / rate, count / rate)
    return _Packets(count, first_s, last_s, end_s)


def _rotation(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    """Clockwise display rotation, a multiple of 90; PyAV reports it counter-clockwise and on frames only."""
    try:
        container.seek(0)
        frame = next(container.decode(stream))
    except (av.error.FFmpegError, StopIteration) as error:
        raise VideoError(f"not even the first frame can be decoded: {_last_line(error)}") from error
    return round(-frame.rotation / 90) % 4 * 90


def _bit_depth(stream: av.VideoStream) -> int:
    pixel_format = stream.codec_context.format
    depths = [int(component.bits) for component in pixel_format.components] if pixel_format else []
    return max(depths, default=8)


def _refuse_cut_boxes(path: str) -> None:
    """ISO files (mp4, mov) say how long each top-level box is; a box that ends behind the file was cut off."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        position, first = 0, True
        while position + 8 <= size:
            file.seek(position)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if first and kind != b"ftyp":
                return
            first = False
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length == 0:
                return
            if length < 8:
                raise VideoError(f"box {kind!r} at byte {position} has length {length}", reason="unreadable")
            if position + length > size:
                lost = position + length - size
                raise VideoError(f"the last {lost} bytes of box {kind!r} are missing", reason="truncated")
            position += length


def _refuse_early_end(container: av.container.InputContainer, packets: _Packets) -> None:
    """Other containers state a duration; frames that end long before it, with no other stream, were cut off."""
    if container.duration is None or len(container.streams) > 1:
        return
    stated_s, found_s = container.duration / 1e6, packets.end_s - packets.first_s
    if found_s < 0.9 * stated_s - 0.5:
        raise VideoError(f"frames end at {found_s:.2f} s of a stated {stated_s:.2f} s", reason="truncated")


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


class _Server:
    """Answers requests until its input ends; keeps the two readers used last open."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests, self._answers = requests, answers
        self._readers: dict[tuple[str, int, int], FrameReader] = {}
        self._frame_bytes: weakref.WeakKeyDictionary[FrameReader, int] = weakref.WeakKeyDictionary()

    def run(self) -> None:
        for line in self._requests:
            request = json.loads(line)
            try:
                header, payload = self._answer(request)
            except VideoError as error:
                header, payload = {"error": str(error), "reason": error.reason}, b""
            except MemoryError:
                header, payload = {"error": "out of its memory limit", "reason": "decoder_out_of_memory"}, b""
            except OSError as error:
                header, payload = {"error": str(error), "reason": "unreadable"}, b""
            self._send(header, payload)

    def _answer(self, request: dict[str, object]) -> tuple[dict[str, object], bytes | memoryview]:
        path = str(request["path"])
        if request["op"] == "probe":
            return asdict(probe(path, max_pixels=int(str(request["max_pixels"])))), b""
        indices = [int(index) for index in request["indices"]]  # type: ignore[attr-defined]
        frames = np.ascontiguousarray(self._read(path, indices, int(str(request["batch_bytes"]))))
        return {"shape": list(frames.shape)}, frames.reshape(-1).data

    def _read(self, path: str, indices: list[int], batch_bytes: int) -> np.ndarray:
        """As many of the first indices as fit into a batch; the first answer about a video holds one frame."""
        reader = self._reader(path)
        if indices[-1] >= len(reader):
            raise VideoError(f"frame {indices[-1]} was asked for, there are {len(reader)}", reason="truncated")
        frame_bytes = self._frame_bytes.get(reader, batch_bytes)
        frames = _read(reader, indices[: max(1, batch_bytes // frame_bytes)])
        self._frame_bytes[reader] = frames[0].nbytes
        return frames

    def _reader(self, path: str) -> FrameReader:
        status = Path(path).stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._readers:
            while len(self._readers) >= 2:
                self._readers.pop(next(iter(self._readers)))
            self._readers[key] = open_reader(path)
        return self._readers[key]

    def _send(self, header: dict[str, object], payload: bytes | memoryview) -> None:
        encoded = json.dumps({**header, "payload_bytes": len(payload)}).encode()
        self._answers.write(len(encoded).to_bytes(8, "big") + encoded)
        self._answers.write(payload)
        self._answers.flush()


def main(memory_bytes: int) -> None:
    """Serves requests with at most `memory_bytes` of address space and no core dumps."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up between the answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    _Server(sys.stdin.buffer, answers).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
