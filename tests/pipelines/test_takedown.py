"""A takedown leaves nothing of a source, keeps the rest byte for byte, survives being killed, and is not undone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from curation_trial import calls, curate_trial, shard_digests
from curation_videos import BLUE, GREEN, RED, write_video

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ForgeError
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.shards import ShardEntry, read_sample
from lhmforge.datasets.track_paths import read_paths
from lhmforge.pipelines import takedown
from lhmforge.pipelines.fsck import check_folder
from lhmforge.pipelines.ledger import Ledger
from lhmforge.pipelines.likeness_files import likeness_place, read_likenesses
from lhmforge.pipelines.qa.run_data import read_run
from lhmforge.pipelines.takedown_list import read_list

GONE = "green.mp4"


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos in one unit, two samples each."""
    folder = tmp_path_factory.mktemp("takedown")
    for name, colour, count in (("red", RED, 24), ("green", GREEN, 30), ("blue", BLUE, 36)):
        write_video(folder / "in" / f"{name}.mp4", colour=colour, num_frames=count)
    curate_trial([folder / "in"], folder / "out", videos_per_unit=4)
    return folder


@pytest.fixture
def folder(curated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(curated, tmp_path / "run", copy_function=shutil.copy2))


def sample_bytes(root: Path) -> dict[str, dict[str, bytes]]:
    """Key -> members, read as a training job reads them."""
    manifest = Manifest.load(root / "manifest.parquet")
    return {
        row["key"]: read_sample(
            manifest.shard_uri(row["shard"]),
            ShardEntry(key=row["key"], offset=row["offset"], num_bytes=row["num_bytes"], sha256=row["sha256"]),
        ).members
        for _, row in manifest.accepted().iterrows()
    }


def assert_gone(root: Path, digest: str) -> None:
    manifest = Manifest.load(root / "manifest.parquet")
    rows = manifest.frame[manifest.frame["source_id"] == GONE]
    assert list(zip(rows["status"], rows["stage"], rows["reason"], strict=True)) == [
        ("rejected", "takedown", "taken_down")
    ]
    assert rows["uri"].item() == rows["channel"].item() == rows["video_digest"].item() == ""
    mark = digest[:16].encode()
    for path in root.rglob("*"):
        if path.is_file() and path.name != "takedown.json":
            assert mark not in path.read_bytes() and digest[:32] not in path.name, path
    unit = Ledger(root).unit_names()[0]
    assert GONE not in read_paths(str(root), [unit])
    assert {key[:16] for key in read_likenesses(likeness_place(str(root), unit))} == {
        key[:16] for key in manifest.ids()
    }
    assert check_folder(root) == [] and read_run(root).discrepancies == ()


def test_a_source_goes_and_the_rest_stays(folder: Path) -> None:
    root = folder / "out"
    before, digest = sample_bytes(root), storage.file_digest(folder / "in" / GONE).sha256
    plan = takedown.plan_takedown(str(root), [GONE])
    assert len(plan.samples) == 2 and len(plan.shards) == 1 and sample_bytes(root) == before
    takedown.take_down(plan)
    assert_gone(root, digest)
    left = {key: members for key, members in before.items() if not key.startswith(digest[:16])}
    assert sample_bytes(root) == left and len(left) == 4


def test_later_runs_do_not_bring_it_back(folder: Path, tmp_path: Path) -> None:
    root, log = folder / "out", tmp_path / "log"
    curate_trial([folder / "in"], root, videos_per_unit=4)  # the copied folder's places are new to it
    digest = storage.file_digest(folder / "in" / GONE).sha256
    takedown.take_down(takedown.plan_takedown(str(root), [GONE]))
    shards = shard_digests(root)
    again = curate_trial([folder / "in"], root, videos_per_unit=4, log=str(log))
    assert again.num_units_resumed == 1 and shard_digests(root) == shards and not calls(log, "track")
    shutil.copy2(folder / "in" / GONE, folder / "in" / "other name.mp4")
    curate_trial([folder / "in"], root, videos_per_unit=4, log=str(log))
    frame = Manifest.load(root / "manifest.parquet").frame
    assert set(frame["source_id"][frame["reason"] == "taken_down"]) == {GONE, "other name.mp4"}
    assert not {GONE, "other name.mp4"} & set(calls(log, "track"))
    curate_trial([folder / "in"], root, videos_per_unit=4, log=str(log), setting=2.0)
    assert GONE not in calls(log, "track") and calls(log, "track")["red.mp4"] == 2
    assert not [row for row in Manifest.load(root / "manifest.parquet").ids() if row.startswith(digest[:16])]


@pytest.mark.parametrize("step", ["write_list", "copy_samples", "write_record", "publish", "remove", "remove_folder"])
def test_killed_anywhere_it_can_be_read_and_finished(folder: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """At the first call of each step, and after it, the run ends; every sample of the manifest can still be read."""
    root = folder / "out"
    before, digest = sample_bytes(root), storage.file_digest(folder / "in" / GONE).sha256
    for after in (False, True):
        with monkeypatch.context() as patch:
            _die_at(patch, step, after=after)
            with pytest.raises(KeyboardInterrupt):
                takedown.take_down(takedown.plan_takedown(str(root), [GONE]))
        found = sample_bytes(root)
        assert found.items() <= before.items() and len(found) in (4, 6)
    takedown.take_down(takedown.plan_takedown(str(root), [GONE]))
    assert_gone(root, digest)
    assert len(sample_bytes(root)) == 4


def _die_at(patch: pytest.MonkeyPatch, step: str, *, after: bool) -> None:
    place = {"write_record": Ledger, "publish": takedown.SortedTable}.get(
        step, storage if step in ("remove", "remove_folder") else takedown
    )
    real = getattr(place, step)

    def dying(*arguments: object, **named: object) -> object:
        if after:
            real(*arguments, **named)
        raise KeyboardInterrupt

    patch.setattr(place, step, dying)


def test_a_run_after_a_kill_is_consistent_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder / "out"
    with monkeypatch.context() as patch:
        _die_at(patch, "copy_samples", after=True)
        with pytest.raises(KeyboardInterrupt):
            takedown.take_down(takedown.plan_takedown(str(root), [GONE]))
    curate_trial([folder / "in"], root, videos_per_unit=4)
    assert len(sample_bytes(root)) == 4
    takedown.take_down(takedown.plan_takedown(str(root), [GONE]))
    assert_gone(root, storage.file_digest(folder / "in" / GONE).sha256)


def test_unknown_sources_and_damaged_lists_are_refused(folder: Path) -> None:
    root = folder / "out"
    with pytest.raises(ForgeError, match=r"no source 'who\.mp4'"):
        takedown.plan_takedown(str(root), ["who.mp4"])
    takedown.take_down(takedown.plan_takedown(str(root), [GONE]))
    assert read_list(str(root)).source_ids == {GONE}
    (root / "takedown.json").write_text("{")
    with pytest.raises(ForgeError, match="would come back"):
        curate_trial([folder / "in"], root, videos_per_unit=4)
