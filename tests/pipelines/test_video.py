"""Decoding: every kind of odd or hostile file gives right frames or a reason, and the caller lives on."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from curation_videos import rotated, write_audio_only, write_video, write_without_frames

from lhmforge.datasets.errors import VideoError
from lhmforge.pipelines import video
from lhmforge.pipelines.video import DEFAULT_LIMITS, DecodeLimits, frames, probe_video


def _reference(path: Path) -> list[np.ndarray]:
    """All displayed frames by PyAV alone."""
    with av.open(str(path)) as container:
        return [
            np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90) % 4)
            for frame in container.decode(video=0)
        ]


def _reason(path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> str:
    with pytest.raises(VideoError) as caught:
        probe_video(path, limits)
    assert str(caught.value)
    return caught.value.reason


def _assert_frames_match(path: Path, *, tolerance: float = 1.0) -> None:
    reference = _reference(path)
    wanted = [0, 1, 5, 6, 17, len(reference) - 1]
    for index, frame in zip(wanted, frames(path, wanted), strict=True):
        assert frame.shape == reference[index].shape
        assert np.abs(frame.astype(int) - reference[index]).mean() <= tolerance


@pytest.mark.parametrize("width", [32, 192, 320])
def test_plain_video(tmp_path: Path, width: int) -> None:
    path = write_video(tmp_path / "a.mp4", width=width)
    info = probe_video(path)
    assert (info.container, info.codec) == ("mp4", "h264")
    assert (info.width_px, info.height_px, info.rotation_deg, info.bit_depth) == (width, 256, 0, 8)
    assert (info.num_frames, info.fps, info.duration_s) == (24, 24.0, 1.0)
    _assert_frames_match(path, tolerance=0.0)


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (362, 480)])  # decord alone fails at a displayed width of 48
def test_rotation_is_applied(tmp_path: Path, degrees: int, width: int, height: int) -> None:
    path = rotated(write_video(tmp_path / "a.mp4", width=width, height=height), tmp_path / "b.mp4", degrees)
    info = probe_video(path)
    assert info.rotation_deg == degrees
    assert (info.width_px, info.height_px) == ((width, height) if degrees == 180 else (height, width))
    _assert_frames_match(path)


@pytest.mark.parametrize("width", [192, 320])
def test_a_video_can_be_read_backwards(tmp_path: Path, width: int) -> None:
    path = rotated(write_video(tmp_path / "a.mp4", width=width), tmp_path / "b.mp4", 180)
    late = next(frames(path, [20]))
    early = next(frames(path, [2]))
    reference = _reference(path)
    assert np.array_equal(late, reference[20]) and np.array_equal(early, reference[2])


def test_ten_bit(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", width=320, pixel_format="yuv420p10le")
    assert probe_video(path).bit_depth == 10
    _assert_frames_match(path, tolerance=2.0)


def test_odd_size(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", width=321, height=255, pixel_format="yuv444p")
    assert (probe_video(path).width_px, probe_video(path).height_px) == (321, 255)
    _assert_frames_match(path)


def test_variable_frame_rate_counts_every_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", width=320, variable=True)
    info = probe_video(path)
    last_s = (23 * 33 + 2 * 9 + 400) / 1000
    assert info.num_frames == 24
    assert info.fps == pytest.approx(23 / last_s, rel=0.02)
    _assert_frames_match(path, tolerance=0.0)


def test_other_containers_and_sound(tmp_path: Path) -> None:
    assert probe_video(write_video(tmp_path / "a.mkv")).num_frames == 24
    assert probe_video(write_video(tmp_path / "a.avi", codec="mpeg4")).num_frames == 24
    assert probe_video(write_video(tmp_path / "b.mp4", audio=True)).num_frames == 24


def test_missing_and_empty_files(tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert _reason(empty) == "zero_bytes"
    assert _reason(tmp_path / "missing.mp4") == "unreadable"
    assert _reason(tmp_path) == "unreadable"


def test_corrupt_files(tmp_path: Path) -> None:
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(np.random.default_rng(0).bytes(20_000))
    assert _reason(noise) == "unreadable"
    data = bytearray(write_video(tmp_path / "a.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 3000] = np.random.default_rng(1).bytes(3000)
    (tmp_path / "b.mp4").write_bytes(data)
    assert _reason(tmp_path / "b.mp4") == "undecodable"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    data = write_video(tmp_path / f"a{suffix}", num_frames=96).read_bytes()
    (tmp_path / f"b{suffix}").write_bytes(data[: len(data) // 2])
    assert _reason(tmp_path / f"b{suffix}") == "truncated"


def test_files_without_pictures(tmp_path: Path) -> None:
    assert _reason(write_audio_only(tmp_path / "a.mp4")) == "no_video_stream"
    assert _reason(write_without_frames(tmp_path / "b.avi")) == "zero_duration"


def test_playlists_are_not_followed(tmp_path: Path) -> None:
    video_path = write_video(tmp_path / "a.ts", codec="mpeg4")
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{video_path.name}\n#EXT-X-ENDLIST\n")
    assert _reason(playlist) == "unreadable"
    concat = tmp_path / "concat.mp4"
    concat.write_text(f"ffconcat version 1.0\nfile {video_path.name}\n")
    assert _reason(concat) == "unreadable"


def test_too_many_pixels_are_not_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    assert _reason(path, DecodeLimits(max_pixels=1000)) == "too_large"


def test_memory_limit_is_a_reason(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", width=3840, height=2160, num_frames=9, colour=None)
    reason = _reason(path, DecodeLimits(memory_bytes=520 << 20))
    assert reason in {"decoder_crashed", "decoder_out_of_memory", "undecodable", "unreadable"}
    assert probe_video(path).num_frames == 9


def _strike(pid: int, number: signal.Signals) -> threading.Timer:
    timer = threading.Timer(0.2, os.kill, (pid, number))
    timer.start()
    return timer


def test_a_hanging_decoder_is_replaced(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    limits = DecodeLimits(probe_timeout_s=1.0)
    decoder = video._decoder(limits)
    os.kill(decoder.pid, signal.SIGSTOP)
    started = time.monotonic()
    assert _reason(path, limits) == "decoder_timeout"
    assert time.monotonic() - started < 5
    assert probe_video(path, DecodeLimits(probe_timeout_s=60.0)).num_frames == 24


def test_a_crashing_decoder_is_replaced(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    limits = DecodeLimits(batch_timeout_s=30.0)
    probe_video(path, limits)
    decoder = video._decoder(limits)
    pid = decoder.pid
    os.kill(pid, signal.SIGSTOP)
    timer = _strike(pid, signal.SIGKILL)
    with pytest.raises(VideoError) as caught:
        list(frames(path, [3], limits))
    timer.join()
    assert caught.value.reason == "decoder_crashed" and "SIGKILL" in str(caught.value)
    assert len(list(frames(path, [3], limits))) == 1


def test_frames_beyond_the_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    with pytest.raises(VideoError):
        list(frames(path, [3, 24]))
    assert list(frames(path, [])) == []


def test_batches_are_bounded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    limits = DecodeLimits(batch_bytes=3 * 192 * 256 * 3)
    sizes = []
    decoder = video._decoder(limits)
    for _ in range(2):
        request = {"op": "frames", "path": str(path), "indices": list(range(24)), "batch_bytes": limits.batch_bytes}
        sizes.append(decoder.ask(request, timeout_s=30.0).header["shape"][0])  # type: ignore[index]
    assert sizes == [1, 3]
    assert len(list(frames(path, range(24), limits))) == 24
