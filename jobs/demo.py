"""The demo: the whole path on one machine, as the same commands that a user would type."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lhmforge.datasets.assets import asset_path, default_assets, fetch_assets
from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.errors import ForgeError
from lhmforge.datasets.manifest import Manifest

_log = logging.getLogger(__name__)

DEMO_CLIP_ID = "sports2d_demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Sizes of the demo; the defaults take at most 10 minutes on two cores after set-up."""

    output: Path
    num_people: int = 12
    num_frames: int = 24
    workers: int = 2
    train_steps: int = 200
    study_steps: int = 60
    study_sizes: tuple[int, ...] = (3, 6, 9)
    num_eval: int = 3
    seed: int = 0
    recipe: str = "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo made, as (what it is, where it lies), and the seconds of each step."""

    places: tuple[tuple[str, Path], ...]
    seconds: dict[str, float] = field(default_factory=dict)


def run_demo(config: DemoConfig, call: Callable[[Sequence[str]], None], say: Callable[[str], None]) -> DemoResult:
    """Runs every step; `call` takes the arguments of one `lhmforge` command, `say` prints a line.

    A step that is done already is only checked, so a second run takes seconds. Raises what the steps raise, and
    `ForgeError` when curation accepted too few people for the study.
    """
    out = config.output
    seconds: dict[str, float] = {}

    def step(name: str, *arguments: str) -> None:
        say(f"\n== {name}\n$ lhmforge {shlex.join(arguments)}")
        started = time.monotonic()
        call(arguments)
        seconds[name] = time.monotonic() - started
        say(f"-- {name}: {seconds[name]:.0f} s")

    fetch_assets(default_assets())
    free_body_path()
    people = out / "people"
    step(
        "synthesize", "synthesize", "--count", str(config.num_people), "--frames", str(config.num_frames),
        "--seed", str(config.seed), "--workers", str(max(1, config.workers)), "--output", str(people),
    )  # fmt: skip
    corpus = write_corpus(people, out / "corpus.csv")
    curated = out / "curated"
    step(
        "curate", "curate", "--input", str(corpus), "--output", str(curated), "--recipe", config.recipe,
        "--workers", str(config.workers),
    )  # fmt: skip
    manifest = curated / "manifest.parquet"
    _check_people(manifest, config)
    run = out / "run"
    step(
        "train", "train", "--data", str(manifest), "--preset", "tiny", "--steps", str(config.train_steps),
        "--num-eval", str(config.num_eval), "--workers", str(config.workers), "--output", str(run), "--resume",
    )  # fmt: skip
    study = out / "study"
    step(
        "study", "study", "--data", str(manifest), "--preset", "tiny",
        "--sizes", ",".join(map(str, config.study_sizes)), "--seeds", "1", "--steps", str(config.study_steps),
        "--num-eval", str(config.num_eval), "--threads", str(max(1, config.workers)), "--output", str(study),
    )  # fmt: skip
    photo = write_photo(people, out / "photo.png")
    avatar = out / "avatar"
    if not _is_newer(avatar / "turntable.mp4", (run / "record.json", photo)):
        step("animate", "animate", "--checkpoint", str(run), "--image", str(photo), "--output", str(avatar))
    return DemoResult(places=_places(curated, run, study, avatar), seconds=seconds)


def write_corpus(people: Path, path: Path) -> Path:
    """The demo's corpus: the synthetic people's own table and the real clip, as one CSV manifest."""
    table = pd.read_csv(people / "corpus.csv", dtype=str, keep_default_na=False)
    table["path"] = [str((people / name).resolve()) for name in table["path"]]
    real = {
        "path": str(asset_path("demo_clip")), "source_id": DEMO_CLIP_ID, "channel": "sports2d",
        "licence": "BSD-3-Clause", "identity": "",
    }  # fmt: skip
    columns = ["path", "source_id", "channel", "licence", "identity"]
    pd.concat([table[columns], pd.DataFrame([real])], ignore_index=True).to_csv(path, index=False)
    return path


def write_photo(people: Path, path: Path) -> Path:
    """The first frame of the last synthetic clip, as the photo that becomes an avatar; kept once it is there."""
    from PIL import Image

    from lhmforge.pipelines.video import frames

    if path.exists():
        return path
    table = pd.read_csv(people / "corpus.csv", dtype=str, keep_default_na=False)
    first = next(iter(frames(people / table["path"].iloc[-1], [0])))
    Image.fromarray(first).save(path)
    return path


def _is_newer(made: Path, sources: Sequence[Path]) -> bool:
    """Whether `made`, the last file of a step, was written after everything it was made from."""
    return made.exists() and all(made.stat().st_mtime >= source.stat().st_mtime for source in sources)


def _check_people(manifest: Path, config: DemoConfig) -> None:
    accepted = len(Manifest.load(manifest).accepted())
    needed = max(config.study_sizes) + config.num_eval
    if accepted < needed:
        raise ForgeError(
            f"curation accepted {accepted} tracks, the demo's study needs {needed}; see the reasons in "
            f"{manifest.parent / 'report' / 'index.html'}"
        )


def _places(curated: Path, run: Path, study: Path, avatar: Path) -> tuple[tuple[str, Path], ...]:
    found = [
        ("scaling report", study / "report.html"),
        ("curation report and contact sheets", curated / "report" / "index.html"),
        ("shards and manifest", curated / "manifest.parquet"),
        ("training renders", run / "renders"),
        ("MLflow store of the run", run / "mlflow.db"),
        ("MLflow store of the study", study / "mlflow.db"),
        *((f"avatar {path.suffix}", path) for path in sorted(avatar.glob("*.ply"))),
        *(("animation video", path) for path in sorted(avatar.glob("*.mp4"))),
    ]
    missing = [str(path) for _, path in found if not path.exists()]
    assert not missing, f"the demo's steps did not write {missing}"
    return tuple(found)
