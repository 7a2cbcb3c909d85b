"""Checkpoints: a folder per step and one JSON record in it that vouches for all its files.

`step_00000100/` holds what torch.distributed.checkpoint writes (`.metadata` and one `__RANK_0.distcp` per process:
weights, averages, moments) and `checkpoint.json` (format, counters, data position, seed, configs, digests). It is
written under a hidden name; the record is put in last and the folder renamed, so a visible folder is complete. A model
alone is one `.safetensors` file whose metadata holds the record. Random numbers need no state: the loop restarts them
at every step from (seed, step, rank).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lhmforge.datasets.config_json import JsonValue, from_json
from lhmforge.datasets.errors import CheckpointError, ConfigError
from lhmforge.lhm_model.weight_files import read_metadata

FORMAT = 2  # 1: one file per kind of state, before checkpoints were sharded; its weights can still be read
RECORD = "checkpoint.json"
WEIGHTS = "model.safetensors"  # in the folders of format 1 and of imported releases
EXPORT_KEY = "lhmforge.checkpoint"  # of the record in an exported file's metadata
PARTIAL = ".partial_"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """What a checkpoint says about itself; `checkpoint.json` is its JSON form."""

    format: int
    step: int
    samples_seen: int
    seconds: float
    seed: int
    world_size: int
    num_parameters: int  # trainable
    body_digest: str
    model_config: dict[str, JsonValue]
    run_config: dict[str, JsonValue]
    position: dict[str, int | str]  # of the data stream
    scores: dict[str, float]
    fingerprint: str = ""  # of the run's configuration; empty where there was no run
    points_digest: str = ""  # of the query points
    sha256: dict[str, str] = field(default_factory=dict)  # file name -> digest


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOrigin:
    """What a checkpoint must say besides the state: what was trained, on which body, how."""

    seed: int
    world_size: int
    body_digest: str
    model_config: dict[str, JsonValue]
    run_config: dict[str, JsonValue]
    fingerprint: str = ""
    points_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which checkpoints stay: the newest `keep_last`, every `keep_every`-th step (0: none), and the best by `score`."""

    keep_last: int = 2
    keep_every: int = 0
    score: str = "psnr"
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ConfigError(f"retention.keep_last: {self.keep_last} is below 1")
        if self.keep_every < 0:
            raise ConfigError(f"retention.keep_every: {self.keep_every} is negative; 0 keeps no extra steps")


def latest_checkpoint(root: Path) -> Path | None:
    """The published checkpoint with the highest step, or None."""
    folders = published_checkpoints(root)
    return folders[-1] if folders else None


def published_checkpoints(root: Path) -> list[Path]:
    """All complete checkpoint folders below `root`, by ascending step."""
    return sorted(path for path in root.glob("step_*") if (path / RECORD).is_file()) if root.is_dir() else []


def resolve_checkpoint(path: Path) -> Path:
    """A checkpoint from a user's path: a folder or exported file itself, a `checkpoints` folder, or a run folder."""
    if path.is_file() or (path / RECORD).is_file():
        return path
    found = latest_checkpoint(path) or latest_checkpoint(path / "checkpoints")
    if found is None:
        raise CheckpointError(
            f"{path}: no checkpoint here; expected an exported .safetensors file, a step_* folder, a checkpoints or a "
            "run folder"
        )
    return found


def read_record(path: Path) -> CheckpointRecord:
    """The record of a checkpoint folder or exported file; raises `CheckpointError`."""
    try:
        text = _exported_record(path) if path.is_file() else (path / RECORD).read_text()
        record = from_json(CheckpointRecord, json.loads(text), where=str(path / RECORD))
    except (OSError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: unreadable checkpoint record ({error})") from None
    if record.format not in (1, FORMAT):
        raise CheckpointError(f"{path}: checkpoint format {record.format}, this version reads format {FORMAT}")
    return record


def verify_checkpoint(path: Path, *, share: tuple[int, int] = (0, 1)) -> CheckpointRecord:
    """Reads the record and compares files with their digests; raises `CheckpointError` naming the bad file.

    `share` = (i, n) checks every n-th file from the i-th on: n processes check a checkpoint together.
    """
    record = read_record(path)
    index, count = share
    for name, digest in sorted(record.sha256.items())[index::count]:
        if not (path / name).is_file():
            raise CheckpointError(f"{path / name}: missing; delete this checkpoint folder to resume from an older one")
        if file_sha256(path / name) != digest:
            raise CheckpointError(
                f"{path / name}: altered or torn; delete this checkpoint folder to resume from an older one"
            )
    return record


def retain(root: Path, retention: Retention) -> None:
    """Removes published checkpoints that `retention` does not keep."""
    folders = published_checkpoints(root)
    records = {path: read_record(path) for path in folders}
    scored = [
        (record.scores[retention.score], path) for path, record in records.items() if retention.score in record.scores
    ]
    best = (max if retention.higher_is_better else min)(scored, default=None)
    regular = [path for path in folders if retention.keep_every and records[path].step % retention.keep_every == 0]
    keep = {*folders[-retention.keep_last :], *regular, *([best[1]] if best else [])}
    for path in folders:
        if path not in keep:
            remove_folder(path)


def clear_partial(root: Path) -> None:
    """Removes what earlier processes left unfinished; only while nobody writes."""
    for path in root.glob(f"{PARTIAL}*"):
        shutil.rmtree(path)


def remove_folder(path: Path) -> None:
    """Removes a checkpoint in such an order that no half of it is ever taken for a checkpoint."""
    hidden = path.with_name(f"{PARTIAL}removed_{path.name}")
    path.rename(hidden)
    shutil.rmtree(hidden)


def folder_name(step: int) -> str:
    return f"step_{step:08d}"


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listed(label: str, names: Sequence[str]) -> str:
    """`3 missing (a, b, c)`, for messages."""
    return f"{len(names)} {label}" + (f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "")


def _exported_record(path: Path) -> str:
    record = read_metadata(path).get(EXPORT_KEY)
    if record is None:
        raise CheckpointError(
            f"{path}: a weight file, but not one that `lhmforge model export` wrote; turn a released file into a "
            "checkpoint with `lhmforge model import`"
        )
    return record
