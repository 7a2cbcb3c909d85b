"""`lhmforge synthesize`: the same bytes wherever it renders, killed and resumed, users' scans, and its refusals."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.errors import ConfigError, CorpusError, ScanError
from lhmforge.jobs.cli import run_command

CLIPS = ("synthesize", "--count", "3", "--seed", "6", "--frames", "2", "--size", "64x96", "--output")
SHARDS = (
    "synthesize",
    "--kind",
    "shards",
    "--count",
    "5",
    "--seed",
    "6",
    "--frames",
    "1",
    "--size",
    "64x96",
    "--output",
)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".partial-")  # what a killed writer left, never read
    }


@pytest.mark.parametrize("arguments", [CLIPS, SHARDS], ids=["videos", "shards"])
def test_here_in_processes_and_under_ray_are_byte_identical(
    arguments: tuple[str, ...], tmp_path: Path, ray_session: None
) -> None:
    run_command([*arguments, str(tmp_path / "here")])
    run_command([*arguments, str(tmp_path / "processes"), "--workers", "2"])
    run_command([*arguments, str(tmp_path / "ray"), "--workers", "2", "--ray"])
    here = digests(tmp_path / "here")
    assert here == digests(tmp_path / "processes") == digests(tmp_path / "ray")
    assert sum(name.endswith((".mp4", ".tar")) for name in here) == (3 if arguments is CLIPS else 2)


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command([*CLIPS, str(tmp_path / "whole")])
    command = [sys.executable, "-m", "lhmforge.jobs.cli", *CLIPS, str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    records = tmp_path / "killed" / "records"
    deadline = time.monotonic() + 240
    while not list(records.glob("synthetic_*_?????.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "corpus.csv").exists()
    first = {path.name for path in records.glob("synthetic_*_?????.json")}
    capsys.readouterr()
    run_command([*CLIPS, str(tmp_path / "killed")])
    assert f"{3 - len(first)} rendered, {len(first)} kept" in capsys.readouterr().out
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_scans_go_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body, params = BodyModel.load(free_body_path()), BodyParams.rest(1)
    folder = tmp_path / "scans"
    folder.mkdir()
    vertices = body.pose(params).vertices[0].numpy()
    colours = np.full((len(vertices), 3), (90, 140, 60), np.uint8)
    for name in ("eva", "otto"):
        trimesh.Trimesh(100 * vertices, body.faces.numpy(), vertex_colors=colours, process=False).export(
            folder / f"{name}.ply"
        )
        np.savez(folder / f"{name}.npz", **params.to_arrays())
    arguments = [
        "synthesize",
        "--scans",
        str(folder),
        "--frames",
        "1",
        "--size",
        "64x96",
        "--output",
        str(tmp_path / "out"),
    ]
    with pytest.raises(ScanError, match=r"--scan-scale 0\.01"):
        run_command(arguments)
    run_command([*arguments, "--scan-scale", "0.01"])
    run_command([*arguments, "--scan-scale", "0.01"])
    assert "2 persons: 2 rendered, 0 kept" in (told := capsys.readouterr().out) and "0 rendered, 2 kept" in told


def test_nothing_to_render_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="at least 1"):
        run_command(["synthesize", "--output", str(tmp_path)])
    with pytest.raises(ConfigError, match="at least one"):
        run_command(["synthesize", "--kind", "shards", "--output", str(tmp_path)])
    with pytest.raises(ScanError, match="holds no scan"):
        run_command(["synthesize", "--scans", str(tmp_path), "--output", str(tmp_path / "out")])
