"""Curation as users run it: configs, the command line, the fake recipe through every stage, kill and resume, Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from lhmforge.datasets.config_json import from_json, to_json
from lhmforge.datasets.errors import ConfigError, ForgeError
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.storage import file_digest
from lhmforge.jobs.cli import build_app
from lhmforge.jobs.curate import (
    RECIPES,
    CurateConfig,
    curate_recipe,
    exclusive,
    fake_recipe,
    load_curate_config,
    run_curation,
)
from lhmforge.pipelines.ledger import Ledger


def _videos_module() -> ModuleType:
    path = Path(__file__).parents[1] / "pipelines" / "curation_videos.py"
    spec = importlib.util.spec_from_file_location("curation_videos_for_jobs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    videos, folder = _videos_module(), tmp_path_factory.mktemp("corpus")
    for index, colour in enumerate((videos.RED, videos.GREEN, videos.BLUE)):
        videos.write_video(folder / f"v{index}.mp4", width=320, height=360, colour=colour)
    videos.write_video(folder / "nobody.mp4", width=320, height=360, colour=None)
    return folder


@pytest.fixture(scope="module")
def calm(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of the fake recipe in this process."""
    output = tmp_path_factory.mktemp("calm")
    run_curation(fake_recipe(), [corpus], output, workers=0, progress=False)
    return output


def _shards(output: Path) -> dict[str, str]:
    """Digests of all that must not depend on how a run went: the shards, and the tracks beside them."""
    files = [*(output / "shards").iterdir(), *(output / "tracks").iterdir()]
    return {path.name: file_digest(path).sha256 for path in files}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_configs_survive_json(name: str) -> None:
    config = curate_recipe(name)
    again = from_json(CurateConfig, json.loads(json.dumps(to_json(config))))
    assert again == config and again.fingerprint == config.fingerprint
    assert len({curate_recipe(other).fingerprint for other in RECIPES}) == len(RECIPES)


def test_a_config_file_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"track": {"sample_fps": 3}, "limits": {"max_attempts": 2}}')
    config = load_curate_config(path, fake_recipe())
    assert config.track.sample_fps == 3.0 and config.limits.max_attempts == 2
    assert config.track.detector.name == "fake"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"tracks": {}}', "unknown key 'tracks'; valid keys are probe, shots, track"),
        ('{"track": {"fps": 3}}', "unknown key 'fps'; valid keys are detector"),
        ('{"videos_per_unit": 0}', "must be at least 1"),
        ('{"videos_per_unit": "two"}', "expected int"),
        ('{"fit": {"body": "x.npz"}}', "must name the same"),
        ("{", "not readable as JSON"),
        ("[]", "expected an object"),
    ],
)
def test_wrong_configs_are_explained(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_curate_config(path, fake_recipe())


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match="known: default, demo, fake"):
        curate_recipe("best")


def test_the_fake_recipe_runs_every_stage(calm: Path) -> None:
    manifest = Manifest.load(calm / "manifest.parquet")
    assert len(manifest.accepted()) == 3
    rejected = manifest.rejected()
    assert list(zip(rejected.source_id, rejected.stage, strict=True)) == [("nobody.mp4", "track")]
    assert (calm / "report" / "index.html").is_file() and (calm / "curation.json").is_file()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(ForgeError, match="another curation is running"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass


@pytest.mark.ray
def test_ray_and_inline_write_the_same_shards(corpus: Path, calm: Path, tmp_path: Path, ray_session: None) -> None:
    summary = run_curation(fake_recipe(), [corpus], tmp_path, workers=2, progress=False)
    assert _shards(tmp_path) == _shards(calm) != {}
    assert summary.manifest_digest == Manifest.load(calm / "manifest.parquet").digest


def test_a_killed_run_goes_on_and_gives_the_same_shards(corpus: Path, calm: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lhmforge.jobs.cli", "curate", "--input", str(corpus), "--output", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    driver = subprocess.Popen([*command, "--recipe", "fake", "--workers", "0"], env=environment)
    deadline = time.monotonic() + 120
    while not Ledger(tmp_path).unit_names():
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "units").iterdir()}
    assert not (tmp_path / "manifest.parquet").exists()
    summary = run_curation(fake_recipe(), [corpus], tmp_path, workers=0, progress=False)
    assert summary.num_units_resumed == len(finished) < summary.num_units
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    assert _shards(tmp_path) == _shards(calm)


def test_dry_run_and_fsck_on_the_command_line(corpus: Path, calm: Path, tmp_path: Path) -> None:
    run = CliRunner()
    plan = run.invoke(
        build_app(), ["curate", "--input", str(corpus), "--output", str(calm), "--recipe", "fake", "--dry-run"]
    )
    assert plan.exit_code == 0 and "4 videos in" in plan.output and "to do" not in plan.output
    fresh = run.invoke(
        build_app(),
        ["curate", "--input", str(corpus), "--output", str(tmp_path / "x"), "--recipe", "fake", "--dry-run"],
    )
    assert "to do" in fresh.output and not (tmp_path / "x").exists()
    assert run.invoke(build_app(), ["fsck", str(calm)]).exit_code == 0
    shard = next((calm / "shards").iterdir())
    (calm / "shards" / "unit-9-000.tar").write_bytes(shard.read_bytes())
    broken = run.invoke(build_app(), ["fsck", str(calm)])
    assert broken.exit_code == 1 and "orphaned" in broken.output
    assert run.invoke(build_app(), ["fsck", str(calm), "--repair"]).exit_code == 0
    assert run.invoke(build_app(), ["fsck", str(calm)]).exit_code == 0
