"""Checkpoints: a folder per step with the weights, the optimiser and one JSON record that vouches for both.

`step_00000100/` holds `model.safetensors` (and `average.safetensors`), `training.pt` (optimiser state; loads with
`weights_only`) and `checkpoint.json` (format, counters, data position, seed, configs, digests). A folder is written
under a hidden name and renamed once everything is on disk, so a visible folder is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.resolve import body_path
from lhmforge.datasets.config_json import JsonValue, from_json, to_json
from lhmforge.datasets.errors import CheckpointError, ConfigError
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.train_loop import Counters, TrainState

FORMAT = 1
_RECORD = "checkpoint.json"


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
    sha256: dict[str, str] = field(default_factory=dict)  # file name -> digest


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOrigin:
    """What a checkpoint must say besides the state: what was trained, on which body, how."""

    seed: int
    world_size: int
    body_digest: str
    model_config: dict[str, JsonValue]
    run_config: dict[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which checkpoints stay: the newest `keep_last` and the one with the best `score` (higher or lower is better)."""

    keep_last: int = 2
    score: str = "psnr"
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ConfigError(f"retention.keep_last: {self.keep_last} is below 1")


def save_checkpoint(
    root: Path, state: TrainState, origin: CheckpointOrigin, *, scores: Mapping[str, float], retention: Retention
) -> Path:
    """Writes and publishes the checkpoint of `state`, then removes those that `retention` does not keep.

    Call it on one process. Publishing the same step twice replaces the folder.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = root / _folder_name(state.counters.step)
    partial = root / f".partial_{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    _write_tensors(partial / "model.safetensors", state.bare_model.state_dict())
    if state.average is not None:
        _write_tensors(partial / "average.safetensors", state.average.state_dict())
    torch.save(state.optimizer.state_dict(), partial / "training.pt")
    digests = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
    record = CheckpointRecord(
        format=FORMAT,
        **asdict(state.counters),
        num_parameters=sum(p.numel() for p in state.bare_model.parameters() if p.requires_grad),
        position=state.batches.state_dict(),
        scores=dict(scores),
        sha256=digests,
        **{name: getattr(origin, name) for name in origin.__slots__},
    )
    (partial / _RECORD).write_text(json.dumps(to_json(record), indent=1) + "\n")
    _publish(partial, final)
    _retain(root, retention)
    return final


def restore_checkpoint(path: Path, state: TrainState, origin: CheckpointOrigin) -> CheckpointRecord:
    """Loads the checkpoint folder `path` into `state` (every process calls it).

    Raises:
        CheckpointError: a file is missing or altered, or the checkpoint is of another model, body or seed.
    """
    record = verify_checkpoint(path)
    for name in ("model_config", "body_digest", "seed"):
        if getattr(record, name) != getattr(origin, name):
            raise CheckpointError(
                f"{path}: {name} is {getattr(record, name)!r}, this run has {getattr(origin, name)!r}"
            )
    load_weights(state.bare_model, path / "model.safetensors")
    state.optimizer.load_state_dict(torch.load(path / "training.pt", map_location="cpu", weights_only=True))
    average = path / "average.safetensors"
    if state.average is not None and average.is_file():
        state.average.load_state_dict(_read_tensors(average))
    state.batches.load_state_dict(record.position)
    state.counters = Counters(step=record.step, samples_seen=record.samples_seen, seconds=record.seconds)
    return record


def load_model(path: Path, body: BodyModel | None = None) -> LHM:
    """The model of a checkpoint (its averaged weights where there are any), in eval mode, on the CPU.

    `path` is a checkpoint, a checkpoints folder or a run folder; `body` defaults to the embedded free body.

    Raises:
        CheckpointError: no such checkpoint, an altered file, or another body or point set than in training.
    """
    folder = resolve_checkpoint(path)
    record = verify_checkpoint(folder)
    body = BodyModel.load(body_path(None)) if body is None else body
    if body.digest != record.body_digest:
        raise CheckpointError(
            f"{folder}: trained on a body file with digest {record.body_digest[:16]}, the given one has "
            f"{body.digest[:16]}; pass the SMPL-X npz of the training run"
        )
    config = from_json(ModelConfig, record.model_config, where="model")
    state = _read_tensors(folder / "model.safetensors")
    if "average.safetensors" in record.sha256:
        state |= _read_tensors(folder / "average.safetensors")
    return LHM.from_state(config, body, state).eval()


def latest_checkpoint(root: Path) -> Path | None:
    """The published checkpoint with the highest step, or None."""
    folders = published_checkpoints(root)
    return folders[-1] if folders else None


def published_checkpoints(root: Path) -> list[Path]:
    """All complete checkpoint folders below `root`, by ascending step."""
    return sorted(path for path in root.glob("step_*") if (path / _RECORD).is_file()) if root.is_dir() else []


def resolve_checkpoint(path: Path) -> Path:
    """A checkpoint folder from a user's path: the folder itself, a `checkpoints` folder, or a run folder."""
    if (path / _RECORD).is_file():
        return path
    found = latest_checkpoint(path) or latest_checkpoint(path / "checkpoints")
    if found is None:
        raise CheckpointError(f"{path}: no checkpoint here; expected a step_* folder, a checkpoints or a run folder")
    return found


def read_record(path: Path) -> CheckpointRecord:
    """The record of the checkpoint folder `path`; raises `CheckpointError`."""
    try:
        data = json.loads((path / _RECORD).read_text())
        record = from_json(CheckpointRecord, data, where=str(path / _RECORD))
    except (OSError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: unreadable checkpoint ({error})") from None
    if record.format != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {record.format}, this version reads format {FORMAT}")
    return record


def verify_checkpoint(path: Path) -> CheckpointRecord:
    """Reads the record and compares every file with its digest; raises `CheckpointError` naming the bad file."""
    record = read_record(path)
    for name, digest in record.sha256.items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path / name}: missing; delete this checkpoint folder to resume from an older one")
        if _sha256(path / name) != digest:
            raise CheckpointError(
                f"{path / name}: altered or torn; delete this checkpoint folder to resume from an older one"
            )
    return record


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a safetensors file into `model`; every tensor must be there, none may be left over."""
    tensors = _read_tensors(path)
    expected = model.state_dict()
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise CheckpointError(f"{path}: {_some('missing', missing)}; {_some('unknown', unknown)}")
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(f"{path}: {name} is {list(value.shape)}, the model has {list(expected[name].shape)}")
    model.load_state_dict(tensors)


def _some(label: str, names: list[str]) -> str:
    return f"{len(names)} {label}" + (f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: unreadable weights ({error})") from None
    return tensors


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    safetensors.torch.save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, path
    )


def _publish(partial: Path, final: Path) -> None:
    """Flushes the folder's files to disk and renames it; the rename is the moment of publication."""
    for path in partial.iterdir():
        _flush(path)
    _flush(partial)
    replaced = final.with_name(f".partial_replaced_{final.name}")
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    _flush(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _retain(root: Path, retention: Retention) -> None:
    folders = published_checkpoints(root)
    scored = {path: read_record(path).scores.get(retention.score) for path in folders}
    ranked = sorted(
        (score if retention.higher_is_better else -score, path) for path, score in scored.items() if score is not None
    )
    keep = {*folders[-retention.keep_last :], *(path for _, path in ranked[-1:])}
    for path in [*folders, *root.glob(".partial_*")]:
        if path not in keep:
            shutil.rmtree(path)


def _folder_name(step: int) -> str:
    return f"step_{step:08d}"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
