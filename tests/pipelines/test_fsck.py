"""The folder check: each kind of damage is found and named, and a repair followed by a run restores every byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from curation_trial import curate_trial, shard_digests
from curation_videos import BLUE, GREEN, RED, write_video

from lhmforge.pipelines.fsck import check_folder, repair_folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("fsck")
    for index, colour in enumerate((RED, GREEN, BLUE)):
        write_video(folder / "in" / f"v{index}.mp4", colour=colour)
    curate_trial([folder / "in"], folder / "out", videos_per_unit=1)
    return folder / "in", folder / "out"


def test_a_sound_folder(finished: tuple[Path, Path]) -> None:
    assert check_folder(finished[1]) == []


def test_every_damage_is_found_and_repaired(tmp_path: Path, finished: tuple[Path, Path]) -> None:
    corpus, out = finished[0], tmp_path / "out"
    shutil.copytree(finished[1], out)
    sound = shard_digests(out)
    torn, altered, missing = sorted((out / "shards").iterdir())
    shutil.copy(altered, out / "shards" / "unit-9-000.tar")
    torn.write_bytes(torn.read_bytes()[:-1500])
    data = bytearray(altered.read_bytes())
    data[600] ^= 255
    altered.write_bytes(data)
    missing.unlink()
    (out / "shards" / ".partial-unit-3").write_bytes(b"half")
    (out / "units" / "unit-broken.json").write_text("{")
    found = {(finding.kind, finding.place) for finding in check_folder(out)}
    assert found == {
        ("torn", f"shards/{torn.name}"),
        ("altered", f"shards/{altered.name}"),
        ("missing", f"shards/{missing.name}"),
        ("orphaned", "shards/unit-9-000.tar"),
        ("half_written", "shards/.partial-unit-3"),
        ("unreadable_record", "units/unit-broken.json"),
    }
    queued = repair_folder(out, check_folder(out))
    assert len(queued) == 4
    curate_trial([corpus], out, videos_per_unit=1)
    assert check_folder(out) == [] and shard_digests(out) == sound


def test_the_same_data_in_two_units_is_found(tmp_path: Path, finished: tuple[Path, Path]) -> None:
    corpus, out = finished[0], tmp_path / "out"
    shutil.copytree(finished[1], out)
    curate_trial([corpus], out, videos_per_unit=8)  # the units are cut differently: the old ones stay behind
    kinds = {finding.kind for finding in check_folder(out)}
    assert {"duplicate", "overlapping_unit"} <= kinds
    findings = check_folder(out, current_units=frozenset({"unit-all"}))
    assert {finding.kind for finding in findings} == {"orphaned"}
    repair_folder(out, findings)
    assert check_folder(out) == []
