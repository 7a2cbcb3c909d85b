"""Curation as a whole: every video ends somewhere, nothing is done twice, and bytes do not depend on what happened."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from curation_trial import calls, curate_trial, shard_digests
from curation_videos import BLUE, GREEN, RED, write_audio_only, write_video
from fsspec.implementations.memory import MemoryFileSystem

from lhmforge.datasets.errors import StorageError
from lhmforge.datasets.manifest import Manifest
from lhmforge.pipelines.ledger import Ledger
from lhmforge.pipelines.unit import UnitLimits


@pytest.fixture(scope="session")
def good_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for index, colour in enumerate((RED, GREEN, BLUE)):
        write_video(folder / f"v{index}.mp4", colour=colour)
        write_video(folder / "more" / f"w{index}.mp4", colour=colour, num_frames=30 + index)
    return folder


def _corpus(tmp_path: Path, good_videos: Path, *odd: str) -> Path:
    """A folder with the good videos (linked) and one more per name in `odd`."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for path in good_videos.rglob("*.mp4"):
        (folder / path.name).symlink_to(path)
    for index, name in enumerate(odd):
        write_video(folder / f"{name}.mp4", num_frames=40 + index)
    return folder


def _rows(root: Path) -> pd.DataFrame:
    return Manifest.load(root / "manifest.parquet").frame


def test_every_video_ends_in_the_manifest(tmp_path: Path, good_videos: Path) -> None:
    corpus = _corpus(tmp_path, good_videos)
    (corpus / "empty.mp4").touch()
    write_audio_only(corpus / "sound.mp4")
    write_video(corpus / "tiny.mp4", width=32, height=32)
    write_video(corpus / "huge.mp4", width=4352, height=130, num_frames=9)
    write_video(corpus / "short.mp4", num_frames=3)
    (corpus / "again.mp4").write_bytes((good_videos / "v1.mp4").read_bytes())
    (corpus / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    summary = curate_trial([corpus], tmp_path / "out")
    rejected = dict(summary.rejected)
    assert rejected == {
        "shots/third": 6,
        "probe/zero_bytes": 1,
        "probe/no_video_stream": 1,
        "probe/too_small": 1,
        "probe/too_large": 1,
        "probe/too_short": 1,
        "probe/unreadable": 1,
        "dedup/duplicate_content": 1,
    }
    assert (summary.num_videos, summary.num_accepted, summary.num_quarantined) == (13, 12, 0)
    flows = {flow.stage: flow for flow in summary.stages}
    for flow in flows.values():
        assert flow.stage == "shots" or flow.num_in == flow.num_out + flow.num_rejected
    assert flows["track"].num_in == flows["shots"].num_out == 12
    rows = _rows(tmp_path / "out")
    assert len(rows) == 12 + sum(rejected.values())
    copy = rows[rows.reason == "duplicate_content"].iloc[0]
    assert copy.source_id == "v1.mp4" and "again.mp4" in copy.detail
    costs = rows[[name for name in rows.columns if name.startswith("cost_track")]].sum().sum()
    assert costs == pytest.approx(flows["track"].seconds, rel=1e-6)


def test_a_finished_run_is_not_repeated(tmp_path: Path, good_videos: Path) -> None:
    log = str(tmp_path / "log")
    first = curate_trial([good_videos], tmp_path / "out", log=log)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").iterdir()}
    second = curate_trial([good_videos], tmp_path / "out", log=log)
    assert sum(calls(log, "track").values()) == 12
    assert second.num_units_resumed == second.num_units == first.num_units
    assert second.manifest_digest == first.manifest_digest
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").iterdir()}
    assert not list((tmp_path / "out" / "attempts").iterdir())


def test_inline_and_child_process_write_the_same_bytes(tmp_path: Path, good_videos: Path) -> None:
    inline = curate_trial([good_videos], tmp_path / "a", workers=0)
    isolated = curate_trial([good_videos], tmp_path / "b", workers=1)
    assert shard_digests(tmp_path / "a") == shard_digests(tmp_path / "b") != {}
    assert inline.manifest_digest == isolated.manifest_digest


@pytest.mark.ray
def test_ray_writes_the_same_bytes(tmp_path: Path, good_videos: Path, ray_session: None) -> None:
    import curation_trial
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(curation_trial)
    inline = curate_trial([good_videos], tmp_path / "a", workers=0)
    spread = curate_trial([good_videos], tmp_path / "b", workers=2)
    assert shard_digests(tmp_path / "a") == shard_digests(tmp_path / "b") != {}
    assert inline.manifest_digest == spread.manifest_digest


@pytest.mark.ray
def test_ray_quarantines_a_video_that_kills_its_worker(tmp_path: Path, good_videos: Path, ray_session: None) -> None:
    import curation_trial
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(curation_trial)
    corpus = _corpus(tmp_path, good_videos, "crash")
    summary = curate_trial([corpus], tmp_path / "out", workers=2, log=str(tmp_path / "log"), videos_per_unit=4)
    assert (summary.num_quarantined, summary.num_accepted) == (1, 12)
    assert calls(tmp_path / "log", "track")["crash.mp4"] == 3


@pytest.mark.parametrize(
    ("name", "limits", "words"),
    [
        ("crash", UnitLimits(), "SIGKILL"),
        ("hang", UnitLimits(video_timeout_s=1.5), "timeout"),
        ("feast", UnitLimits(memory_gib=1.4), "out of memory"),
    ],
)
def test_a_deadly_video_is_quarantined_alone(
    tmp_path: Path, good_videos: Path, name: str, limits: UnitLimits, words: str
) -> None:
    corpus, log = _corpus(tmp_path, good_videos, name), str(tmp_path / "log")
    summary = curate_trial([corpus], tmp_path / "out", workers=1, limits=limits, log=log, videos_per_unit=8)
    assert (summary.num_quarantined, summary.num_accepted) == (1, 12)
    assert calls(log, "track")[f"{name}.mp4"] == 3
    row = _rows(tmp_path / "out").query("status == 'quarantined'").iloc[0]
    assert (row.source_id, row.stage, row.reason, row.attempts) == (f"{name}.mp4", "track", "quarantined", 3)
    assert words in row.detail
    others = {source: count for source, count in calls(log, "track").items() if source != f"{name}.mp4"}
    assert set(others.values()) == {2}, "the rest of the unit was done once, out of the cache after each crash"


def test_a_bug_on_one_video_does_not_stop_the_others(tmp_path: Path, good_videos: Path) -> None:
    corpus = _corpus(tmp_path, good_videos, "fail")
    summary = curate_trial([corpus], tmp_path / "out", workers=0, videos_per_unit=8)
    assert (summary.num_quarantined, summary.num_accepted) == (1, 12)
    row = _rows(tmp_path / "out").query("status == 'quarantined'").iloc[0]
    assert "RuntimeError: a bug in a stage" in row.detail


def test_only_what_a_setting_decides_is_recomputed(tmp_path: Path, good_videos: Path) -> None:
    out = tmp_path / "out"
    curate_trial([good_videos], out, log=str(tmp_path / "log0"))
    changed = curate_trial([good_videos], out, log=str(tmp_path / "log1"), suffix="new")
    assert not calls(tmp_path / "log1", "track")
    assert sum(calls(tmp_path / "log1", "pack").values()) == 12
    flows = {flow.stage: flow for flow in changed.stages}
    assert flows["track"].seconds == 0 and flows["track"].cached_seconds > 0 and flows["track"].num_out == 12
    fresh = curate_trial([good_videos], tmp_path / "fresh", suffix="new")
    assert shard_digests(out) == shard_digests(tmp_path / "fresh")
    assert changed.manifest_digest == fresh.manifest_digest
    curate_trial([good_videos], out, log=str(tmp_path / "log2"), setting=2.0)
    assert sum(calls(tmp_path / "log2", "track").values()) == 12


def test_changed_and_added_videos_touch_their_units_only(tmp_path: Path, good_videos: Path) -> None:
    corpus, out = _corpus(tmp_path, good_videos), tmp_path / "out"
    curate_trial([corpus], out, videos_per_unit=1)
    (corpus / "v0.mp4").unlink()
    write_video(corpus / "v0.mp4", num_frames=36)
    os.utime(good_videos / "v1.mp4")  # touched, same bytes
    summary = curate_trial([corpus], out, videos_per_unit=1, log=str(tmp_path / "log"))
    assert calls(tmp_path / "log", "track") == {"v0.mp4": 2}
    assert summary.num_units_resumed == 5


def test_new_facts_about_a_source_reach_its_samples_without_rework(tmp_path: Path, good_videos: Path) -> None:
    table = pd.DataFrame({"path": [str(good_videos / "v0.mp4")], "source_id": ["s"], "licence": ["unknown"]})
    table.to_csv(tmp_path / "m.csv", index=False)
    curate_trial([tmp_path / "m.csv"], tmp_path / "out")
    table.assign(licence="CC0").to_csv(tmp_path / "m.csv", index=False)
    curate_trial([tmp_path / "m.csv"], tmp_path / "out", log=str(tmp_path / "log"))
    assert set(_rows(tmp_path / "out").licence) == {"CC0"}
    assert not calls(tmp_path / "log", "track")


def test_damaged_state_is_redone(tmp_path: Path, good_videos: Path) -> None:
    out, log = tmp_path / "out", str(tmp_path / "log")
    curate_trial([good_videos], out, videos_per_unit=1)
    sound = shard_digests(out)
    shards = sorted((out / "shards").iterdir())
    data = bytearray(shards[0].read_bytes())
    data[700] ^= 1
    shards[0].write_bytes(data)  # altered, same size
    shards[1].write_bytes(shards[1].read_bytes()[:-600])  # torn
    (out / "units" / f"{shards[2].name[:-8]}.json").write_text('{"version": 1, "uni')
    for entry in (out / "cache").rglob("*.npz"):
        entry.write_bytes(entry.read_bytes()[:50])
    curate_trial([good_videos], out, log=log, videos_per_unit=1)
    assert shard_digests(out) == sound
    assert set(calls(log, "track").values()) == {2} and len(calls(log, "track")) == 3


def _wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def test_a_killed_driver_loses_only_what_was_in_flight(tmp_path: Path, good_videos: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    script = Path(__file__).with_name("curation_trial.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(good_videos), str(out), "1", str(log)]
    driver = subprocess.Popen(command, env=environment)
    _wait_for(lambda: len(Ledger(out).unit_names()) >= 2)
    _wait_for(lambda: len(calls(log, "track")) > len(Ledger(out).unit_names()))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(0.3)  # a child dies with its driver
    finished, before = set(Ledger(out).unit_names()), calls(log, "track")
    assert 2 <= len(finished) < 6 and not (out / "manifest.parquet").exists()
    summary = curate_trial([good_videos], out, videos_per_unit=1, log=str(log))
    assert summary.num_units_resumed == len(finished)
    redone = {source for source, count in calls(log, "track").items() if before[source] and count > before[source]}
    assert len(redone) <= 1, "only the unit in flight is redone"
    undisturbed = curate_trial([good_videos], tmp_path / "calm", videos_per_unit=1)
    assert shard_digests(out) == shard_digests(tmp_path / "calm")
    assert summary.manifest_digest == undisturbed.manifest_digest


class _SmallStore(MemoryFileSystem):  # type: ignore[misc]
    """An object store that is full after `quota` puts."""

    protocol = "small"
    store: dict[str, Any] = {}  # noqa: RUF012 - fsspec's way
    pseudo_dirs = [""]  # noqa: RUF012
    quota = 0

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        type(self).quota -= 1
        if self.quota < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().pipe_file(path, value, mode=mode, **options)


@pytest.fixture
def small_store() -> Iterator[type[_SmallStore]]:
    fsspec.register_implementation("small", _SmallStore, clobber=True)
    _SmallStore.store.clear()
    yield _SmallStore


def test_a_full_store_stops_the_run_with_words_and_it_goes_on_later(
    tmp_path: Path, good_videos: Path, small_store: type[_SmallStore]
) -> None:
    small_store.quota = 45
    with pytest.raises(StorageError, match="no space is left"):
        curate_trial([good_videos], "small://bucket/out", videos_per_unit=1)
    finished = Ledger("small://bucket/out").unit_names()
    assert 1 <= len(finished) < 6
    small_store.quota = 10_000
    summary = curate_trial([good_videos], "small://bucket/out", videos_per_unit=1)
    assert summary.num_units_resumed == len(finished) and summary.num_accepted == 12
    curate_trial([good_videos], tmp_path / "calm", videos_per_unit=1)
    assert shard_digests("small://bucket/out") == shard_digests(tmp_path / "calm")


def test_a_full_disk_leaves_nothing_torn(tmp_path: Path, good_videos: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here; the full object store is tested instead")
    try:
        with pytest.raises(StorageError, match="no space is left"):
            curate_trial([good_videos], disk / "out", videos_per_unit=1)
        ledger = Ledger(disk / "out")
        for unit in ledger.unit_names():
            record = ledger.read_record(unit)
            assert record is not None
            assert all(ledger.shard_is_intact(shard, ledger.shard_sizes(), rehash=True) for shard in record.shards)
        assert not list(disk.rglob(".partial-*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_remote_videos_are_fetched_and_give_the_same_bytes(tmp_path: Path, good_videos: Path) -> None:
    store = fsspec.filesystem("memory")
    rows = []
    for path in sorted(good_videos.glob("*.mp4")):
        store.pipe_file(f"/corpus/{path.name}", path.read_bytes())
        rows.append({"uri": f"memory://corpus/{path.name}", "source_id": path.name})
    rows.append({"uri": "memory://corpus/missing.mp4", "source_id": "x"})
    pd.DataFrame(rows).to_parquet(tmp_path / "m.parquet")
    summary = curate_trial([tmp_path / "m.parquet"], "memory://out", videos_per_unit=8)
    assert summary.num_accepted == 6 and dict(summary.rejected)["probe/unreadable"] == 1
    sources = [good_videos / f"v{index}.mp4" for index in range(3)]
    assert curate_trial(sources, tmp_path / "local", videos_per_unit=8).num_accepted == 6
    remote = next(name for name in shard_digests("memory://out"))
    assert shard_digests("memory://out")[remote] == shard_digests(tmp_path / "local")[remote]


def test_large_units_are_cut_into_several_shards(tmp_path: Path, good_videos: Path) -> None:
    from lhmforge.pipelines import unit_record

    ledger = Ledger(tmp_path)
    curate_trial([good_videos], tmp_path / "out", videos_per_unit=8)
    record = Ledger(tmp_path / "out").read_record("unit-all")
    assert record is not None and [shard.num_samples for shard in record.shards] == [12]
    from lhmforge.datasets.records import PackedSample, SourceVideo

    writer = unit_record.ShardWriter(ledger, "unit-x", max_bytes=100)
    for key in "abcde":
        writer.add(
            PackedSample(
                key=key,
                source=SourceVideo(uri="u", source_id="s"),
                members=(("a.bin", bytes(45)),),
                scores=record.rows[0].scores,  # type: ignore[arg-type]
                num_frames=1,
                video_digest="",
                first_frame=0,
                end_frame=1,
                person=0,
                body_digest="",
            )
        )
    writer.flush()
    assert [shard.num_samples for shard in writer.shards] == [2, 2, 1]
    assert writer.places["c"][0] == "shards/unit-x-001.tar"
