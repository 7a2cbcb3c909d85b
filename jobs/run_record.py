"""What a training run leaves behind: its folder's layout and the record that reports read."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lhmforge.datasets import storage
from lhmforge.datasets.config_json import from_json, to_json
from lhmforge.datasets.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The result of one finished run; a value that was not measured is None or absent, never 0."""

    run_id: str
    config_fingerprint: str
    data_digest: str  # of the manifest
    subset_digest: str  # of the training ids
    evaluation_digest: str  # of the held-out ids
    curation_fingerprints: tuple[str, ...]  # of the curation that made the pool of training samples
    unique_clips: int
    samples_seen: int
    epochs: float
    steps: int
    seconds: float  # in the training loop, over all restarts
    world_size: int
    device: str
    seed: int
    preset: str
    num_parameters: int
    metrics: dict[str, float]  # held-out means of the final model
    git_revision: str | None
    finished_at: str  # UTC, ISO 8601


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names of the files of one run."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def renders(self) -> Path:
        return self.root / "renders"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def fatal(self) -> Path:
        return self.root / "fatal.json"

    @property
    def exported(self) -> Path:
        return self.root / "model.safetensors"

    @property
    def record(self) -> Path:
        return self.root / "record.json"

    @property
    def tracking(self) -> Path:
        return self.root / "mlflow.db"


def save_record(record: RunRecord, path: Path) -> None:
    """Publishes the record as JSON."""
    storage.publish(path, (json.dumps(to_json(record), indent=1).encode() + b"\n",))


def load_record(path: Path) -> RunRecord | None:
    """The record at `path`, None when there is none; raises `ConfigError` for a damaged file."""
    if not path.is_file():
        return None
    try:
        return from_json(RunRecord, json.loads(path.read_text()), where=str(path))
    except ValueError as error:
        raise ConfigError(f"{path}: not readable as JSON ({error})") from None


def git_revision() -> str | None:
    """The commit of the checkout this code runs from, with "+changes" if it differs; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()
