"""Shards are byte-reproducible tars that WebDataset itself reads, and damage is found."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset as wds

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.records import PackedSample
from lhmforge.datasets.shards import iter_shard, read_sample, verify_shard, write_shard

MakeSample = Callable[..., PackedSample]


@pytest.fixture
def samples(make_sample: MakeSample) -> list[PackedSample]:
    return [make_sample(key, num_frames=2, level=level) for key, level in (("b_1", 50), ("a_0", 80), ("c_2", 9))]


def test_same_samples_same_bytes(tmp_path: Path, samples: list[PackedSample]) -> None:
    first = write_shard(tmp_path / "one.tar", samples)
    second = write_shard(tmp_path / "sub" / "two.tar", samples[::-1])
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "sub" / "two.tar").read_bytes()
    assert first.sha256 == second.sha256 and first.entries == second.entries and first.name == "one.tar"
    assert [entry.key for entry in first.entries] == ["a_0", "b_1", "c_2"]
    remote = write_shard("memory://shard-test/one.tar", samples)
    assert remote.sha256 == first.sha256
    verify_shard("memory://shard-test/one.tar", sha256=first.sha256)


def test_headers_carry_no_trace_of_machine_or_time(tmp_path: Path, samples: list[PackedSample]) -> None:
    write_shard(tmp_path / "one.tar", samples)
    with tarfile.open(tmp_path / "one.tar") as archive:
        members = archive.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert [m.name for m in members] == sorted(m.name for m in members)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # WebDataset leaves its file open
def test_readers_agree(tmp_path: Path, samples: list[PackedSample]) -> None:
    info = write_shard(tmp_path / "one.tar", samples)
    expected = {sample.key: dict(sample.members) for sample in samples}
    assert {sample.key: sample.members for sample in iter_shard(tmp_path / "one.tar")} == expected
    ranged = [read_sample(tmp_path / "one.tar", entry) for entry in info.entries]
    assert {sample.key: sample.members for sample in ranged} == expected
    plain = wds.WebDataset(str(tmp_path / "one.tar"), shardshuffle=False)
    found = {group["__key__"]: {name: group[name] for name in group if not name.startswith("__")} for group in plain}
    assert found == expected


def test_damage_is_found(tmp_path: Path, samples: list[PackedSample]) -> None:
    path = tmp_path / "one.tar"
    info = write_shard(path, samples)
    data = path.read_bytes()
    altered = bytearray(data)
    altered[info.entries[1].offset + 600] ^= 1
    path.write_bytes(altered)
    with pytest.raises(ShardError, match="altered"):
        verify_shard(path, sha256=info.sha256)
    with pytest.raises(ShardError, match="b_1"):
        read_sample(path, info.entries[1])
    assert read_sample(path, info.entries[0]).key == "a_0"
    path.write_bytes(data[:-1024])
    with pytest.raises(ShardError, match="torn"):
        list(iter_shard(path))
    path.write_bytes(data[: info.entries[2].offset + 512])
    with pytest.raises(ShardError, match="c_2"):
        read_sample(path, info.entries[2])
    storage.remove(path)
    with pytest.raises(ShardError, match="missing"):
        verify_shard(path, sha256=info.sha256)
    with pytest.raises(ShardError, match="missing"):
        read_sample(path, info.entries[0])


def test_bad_names_are_bugs(tmp_path: Path, make_sample: MakeSample) -> None:
    with pytest.raises(AssertionError, match="sample key"):
        write_shard(tmp_path / "x.tar", [make_sample("a.b")])
    with pytest.raises(AssertionError, match="same key"):
        write_shard(tmp_path / "x.tar", [make_sample("a"), make_sample("a")])
    assert list(tmp_path.iterdir()) == []
