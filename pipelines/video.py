"""Videos as the pipeline sees them: `probe_video` and `frames`, decoded in a child process with limits.

A file that crashes, hangs or overfeeds the decoder ends in a `VideoError` with a reason code; the child is replaced
and the caller goes on. Frames are displayed RGB (rotation metadata applied), 8 bits, counted in decode order.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from lhmforge.datasets.errors import VideoError
from lhmforge.pipelines.decode_worker import VideoInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one video may cost the decoder."""

    probe_timeout_s: float = 120.0
    batch_timeout_s: float = 120.0
    memory_bytes: int = 6 << 30  # address space of the child, its libraries included
    batch_bytes: int = 48 << 20  # frames that travel at once
    max_pixels: int = 8192 * 8192


DEFAULT_LIMITS = DecodeLimits()
_PIPE_BYTES = 1 << 20  # the most that Linux grants without privileges; frames are megabytes


def probe_video(path: str | Path, limits: DecodeLimits = DEFAULT_LIMITS) -> VideoInfo:
    """What a video file holds, verified by decoding its first, middle and last frame.

    Raises `VideoError` with reason `unreadable`, `zero_bytes`, `truncated`, `no_video_stream`, `zero_duration`,
    `too_large`, `undecodable`, `decoder_crashed`, `decoder_timeout` or `decoder_out_of_memory`.
    """
    _require_content(path)
    request = {"op": "probe", "path": str(path), "max_pixels": limits.max_pixels}
    answer = _decoder(limits).ask(request, timeout_s=limits.probe_timeout_s)
    values = {f.name: answer.header[f.name] for f in fields(VideoInfo)}
    return VideoInfo(**values)  # type: ignore[arg-type]


def frames(
    path: str | Path, indices: Int64[np.ndarray, " N"] | Sequence[int], limits: DecodeLimits = DEFAULT_LIMITS
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The displayed RGB frames at ascending `indices`, decoded in batches of at most `limits.batch_bytes`.

    Raises `VideoError` like `probe_video`; frames that were already yielded stay valid.
    """
    wanted = [int(index) for index in indices]
    assert all(a < b for a, b in itertools.pairwise(wanted)), "frame indices must ascend"
    if wanted:
        _require_content(path)
    while wanted:
        request = {"op": "frames", "path": str(path), "indices": wanted[:256], "batch_bytes": limits.batch_bytes}
        answer = _decoder(limits).ask(request, timeout_s=limits.batch_timeout_s)
        shape = answer.header["shape"]
        assert isinstance(shape, list)
        batch = np.frombuffer(answer.payload, np.uint8).reshape(shape)
        wanted = wanted[len(batch) :]
        yield from batch


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the child: a JSON header and raw bytes."""

    header: dict[str, object]
    payload: bytearray


class DecoderProcess:
    """One child process and the pipe to it; started on first use, replaced after a crash or a timeout."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, request: dict[str, object], *, timeout_s: float) -> Answer:
        """Sends one request and waits for its answer; raises `VideoError` for an error answer, a crash or a hang."""
        with self._lock:
            child = self._started()
            try:
                answer = self._exchange(child, request, time.monotonic() + timeout_s)
            except TimeoutError:
                self.close()
                message = f"the decoder gave no answer within {timeout_s:g} s"
                raise VideoError(message, reason="decoder_timeout") from None
            except (EOFError, BrokenPipeError):
                raise self._obituary() from None
            except BaseException:  # an interrupt leaves half an answer in the pipe: no later request may read it
                self.close()
                raise
        if "error" in answer.header:
            raise VideoError(str(answer.header["error"]), reason=str(answer.header["reason"]))
        return answer

    def close(self) -> None:
        """Ends the child, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    @property
    def pid(self) -> int:
        """The child's process id (for tests); starts it if need be."""
        return self._started().pid

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
            command = [sys.executable, "-m", "lhmforge.pipelines.decode_worker", str(self._limits.memory_bytes)]
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                bufsize=0,
                start_new_session=True,  # a Ctrl-C reaches us, not the child: we decide what becomes of it
            )
            assert self._child.stdout is not None
            fcntl.fcntl(self._child.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return self._child

    def _exchange(self, child: subprocess.Popen[bytes], request: dict[str, object], deadline: float) -> Answer:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(request).encode() + b"\n")
        length = int.from_bytes(_read_exactly(child.stdout.fileno(), 8, deadline), "big")
        header = json.loads(_read_exactly(child.stdout.fileno(), length, deadline))
        return Answer(header, _read_exactly(child.stdout.fileno(), int(header["payload_bytes"]), deadline))

    def _obituary(self) -> VideoError:
        assert self._child is not None
        code = self._child.wait()
        self.close()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return VideoError(f"the decoder ended with {how}", reason="decoder_crashed")


def _read_exactly(descriptor: int, num_bytes: int, deadline: float) -> bytearray:
    """Raises `TimeoutError` at the deadline and `EOFError` when the pipe ends before."""
    data = bytearray(num_bytes)
    view, position = memoryview(data), 0
    while position < num_bytes:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        received = os.readv(descriptor, [view[position:]])
        if received == 0:
            raise EOFError
        position += received
    return data


def _require_content(path: str | Path) -> None:
    try:
        if not Path(path).is_file():
            raise VideoError(f"{path} is not a file", reason="unreadable")
        with Path(path).open("rb") as file:
            if not file.read(1):
                raise VideoError(f"{path} holds no bytes", reason="zero_bytes")
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror}", reason="unreadable") from error


_decoders: dict[tuple[int, DecodeLimits], DecoderProcess] = {}


def _decoder(limits: DecodeLimits) -> DecoderProcess:
    """This process's decoder for these limits; a forked process gets one of its own."""
    key = (os.getpid(), limits)
    if key not in _decoders:
        _decoders[key] = DecoderProcess(limits)
    return _decoders[key]


@atexit.register
def close_decoders() -> None:
    """Ends this process's children; they also end by themselves when their input closes."""
    for (pid, _), decoder in list(_decoders.items()):
        if pid == os.getpid():
            decoder.close()
    _decoders.clear()
