"""The demo: the real commands in order, a clear stop when too few people were accepted, nothing redone for nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from lhmforge.datasets.asset_table import asset
from lhmforge.datasets.assets import cached_file
from lhmforge.datasets.errors import ConfigError, ForgeError
from lhmforge.datasets.manifest import write_manifest
from lhmforge.jobs.cli import build_app, run_command
from lhmforge.jobs.demo import DEMO_CLIP_ID, DemoConfig, _is_newer, run_demo, write_corpus


@pytest.fixture
def people(tmp_path: Path) -> Path:
    folder = tmp_path / "people"
    folder.mkdir()
    rows = [
        {"path": f"videos/{n}.mp4", "source_id": f"s{n}", "channel": "c", "licence": "CC0-1.0", "identity": f"i{n}"}
        for n in range(3)
    ]
    pd.DataFrame(rows).to_csv(folder / "corpus.csv", index=False)
    return folder


def test_corpus_holds_the_people_and_the_real_clip(people: Path, tmp_path: Path) -> None:
    table = pd.read_csv(write_corpus(people, tmp_path / "corpus.csv"), keep_default_na=False)
    assert list(table["source_id"]) == ["s0", "s1", "s2", DEMO_CLIP_ID]
    assert table["path"].iloc[0] == str(people / "videos" / "0.mp4")
    assert table["path"].iloc[3] == str(cached_file(asset("demo_clip")))
    assert table["identity"].iloc[3] == ""


def test_demo_stops_with_the_report_when_too_few_people_pass(people: Path, tmp_path: Path) -> None:
    called = []

    def call(arguments: list[str]) -> None:
        called.append(arguments[0])
        if arguments[0] == "curate":
            (tmp_path / "curated").mkdir()
            write_manifest(tmp_path / "curated" / "manifest.parquet", [])

    with pytest.raises(ForgeError, match=r"accepted 0 tracks, the demo's study needs 12; .*index\.html"):
        run_demo(DemoConfig(output=tmp_path), call, lambda line: None)
    assert called == ["synthesize", "curate"]


def test_a_made_file_counts_only_when_newer_than_its_sources(tmp_path: Path) -> None:
    made, source = tmp_path / "made", tmp_path / "source"
    source.write_text("s")
    assert not _is_newer(made, (source,))
    made.write_text("m")
    assert _is_newer(made, (source,))
    os.utime(source, ns=(made.stat().st_mtime_ns + 1_000_000_000,) * 2)
    assert not _is_newer(made, (source,))


def test_every_command_explains_itself() -> None:
    app = build_app()
    names = [command.name for command in app.registered_commands] + [group.name for group in app.registered_groups]
    assert {"curate", "train", "study", "animate", "demo", "assets", "model"} <= set(names)
    for name in names:
        result = CliRunner().invoke(app, [str(name), "--help"])
        assert result.exit_code == 0, result.output


def test_errors_of_a_command_are_raised_to_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        run_command(["assets", "verify", "nonsense"])


@pytest.mark.slow
def test_the_whole_demo_runs_and_resumes(tmp_path: Path) -> None:
    config = DemoConfig(output=tmp_path, train_steps=20, study_steps=10)
    first = run_demo(config, run_command, lambda line: None)
    assert all(path.exists() for _, path in first.places)
    again = run_demo(config, run_command, lambda line: None)
    assert sum(again.seconds.values()) < 0.3 * sum(first.seconds.values())
    assert "animate" not in again.seconds
