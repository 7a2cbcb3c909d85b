"""Continues a training run from a checkpoint, and takes models out of checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from lhmforge.datasets import storage
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.resolve import body_path
from lhmforge.datasets.config_json import from_json, to_json
from lhmforge.datasets.errors import CheckpointError
from lhmforge.lhm_model.checkpoint import (
    EXPORT_KEY,
    FORMAT,
    WEIGHTS,
    CheckpointOrigin,
    CheckpointRecord,
    listed,
    read_record,
    resolve_checkpoint,
    verify_checkpoint,
)
from lhmforge.lhm_model.checkpoint_files import read_into, read_table, read_tensors
from lhmforge.lhm_model.checkpoint_state import AVERAGE, MODEL, prepare_moments, state_tensors
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.model import LHM, POINT_KEYS, query_points_of
from lhmforge.lhm_model.parallel import ProcessGroup, SingleProcess
from lhmforge.lhm_model.train_loop import Counters, TrainState
from lhmforge.lhm_model.weight_files import read_weight_file


def restore_checkpoint(
    path: Path, state: TrainState, origin: CheckpointOrigin, *, group: ProcessGroup | None = None
) -> CheckpointRecord:
    """Loads the checkpoint folder `path` into `state`, whatever strategy and world size wrote it.

    Every process of `group` calls it. Raises `CheckpointError`, on all of them alike, when a file is missing or
    altered or the checkpoint is of another model, body, point set, seed or configuration.
    """
    group = group or SingleProcess()
    _agree(group, lambda: verify_checkpoint(path, share=(group.rank, group.world_size)))
    record = read_record(path)
    _require_origin(path, record, origin)
    if record.format != FORMAT:
        raise CheckpointError(
            f"{path}: written before checkpoints were sharded (format {record.format}) and cannot be continued; start "
            "a new run from its weights with --init"
        )
    table = read_table(path)
    prepare_moments(state, table)
    tensors = state_tensors(state)
    _require_names(path, {name: tuple(entry.size) for name, entry in table.items()}, tensors)
    fixed = {MODEL + key for key in POINT_KEYS}  # part of the model's identity: compared, never overwritten
    stored = {name: value.clone() if name in fixed else value for name, value in tensors.items()}
    read_into(path, stored)
    changed = [name for name in fixed & stored.keys() if not torch.equal(stored[name].cpu(), tensors[name].cpu())]
    if changed:
        raise CheckpointError(f"{path}: its query points are not this model's ({', '.join(sorted(changed))} differ)")
    state.batches.load_state_dict(record.position)
    state.counters = Counters(step=record.step, samples_seen=record.samples_seen, seconds=record.seconds)
    return record


def load_model(path: Path, body: BodyModel | None = None) -> LHM:
    """The model of a checkpoint (its averaged weights where there are any), in eval mode, on the CPU.

    `path` is an exported file, a checkpoint, a checkpoints folder or a run folder; `body` defaults to the embedded free
    body.

    Raises:
        CheckpointError: no such checkpoint, an altered file, or another body or point set than in training.
    """
    source = resolve_checkpoint(path)
    record = verify_checkpoint(source)
    body = BodyModel.load(body_path(None)) if body is None else body
    if body.digest != record.body_digest:
        raise CheckpointError(
            f"{source}: trained on a body file with digest {record.body_digest[:16]}, the given one has "
            f"{body.digest[:16]}; pass the SMPL-X npz of the training run"
        )
    config = from_json(ModelConfig, record.model_config, where="model")
    return LHM.from_state(config, body, model_state(source, record)).eval()


def model_state(source: Path, record: CheckpointRecord) -> dict[str, Tensor]:
    """Weights and query points of a checkpoint by name, averages in place of the weights where there are any."""
    if source.is_file():
        return read_weight_file(source)
    if WEIGHTS in record.sha256:
        state = read_weight_file(source / WEIGHTS)
        average = source / "average.safetensors"
        return state | (read_weight_file(average) if average.name in record.sha256 else {})
    tensors = read_tensors(source, (MODEL, AVERAGE))
    by_name = {name.removeprefix(MODEL): value for name, value in tensors.items() if name.startswith(MODEL)}
    return by_name | {name.removeprefix(AVERAGE): value for name, value in tensors.items() if name.startswith(AVERAGE)}


def export_model(path: Path, output: Path) -> Path:
    """Writes the model of a checkpoint as one .safetensors file that holds its record too; returns `output`.

    Raises `CheckpointError` for an altered checkpoint, `StorageError` when it cannot be written.
    """
    source = resolve_checkpoint(path)
    record = verify_checkpoint(source)
    about = to_json(record)
    assert isinstance(about, dict)
    text = json.dumps({**about, "format": FORMAT, "sha256": {}, "position": {}})
    tensors = {name: value.contiguous() for name, value in model_state(source, record).items()}
    storage.publish(output, (safetensors.torch.save(tensors, metadata={EXPORT_KEY: text}),))
    return output


def initial_model(path: Path, config: ModelConfig, body: BodyModel) -> LHM:
    """A model with the weights and the query points of a checkpoint, an export or an import, for a new run.

    `config` may differ in what has no weights. The head mask token may be missing (a release has none); everything
    else must fit. Raises `CheckpointError`.
    """
    source = resolve_checkpoint(path)
    state = model_state(source, verify_checkpoint(source))
    model = LHM(config, body, query_points_of(state, config.num_body_points))
    own = model.state_dict()
    missing = sorted(set(own) - set(state) - {"head_mask_token"})
    unknown = sorted(set(state) - set(own) - {"head_mask_token"})
    wrong = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if missing or unknown or wrong:
        raise CheckpointError(
            f"{source}: does not fit the model {config.name!r}: {listed('missing', missing)}; "
            f"{listed('unknown', unknown)}; {listed('of another shape', wrong)}"
        )
    model.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
    return model


def _agree(group: ProcessGroup, check: Callable[[], object]) -> None:
    """Runs `check` here; what any process found is raised by all of them."""
    try:
        check()
        told: list[str] = []
    except CheckpointError as error:
        told = [str(error)]
    told = group.gather_strings(told)
    if told:
        raise CheckpointError("; ".join(dict.fromkeys(told)))


def _require_origin(path: Path, record: CheckpointRecord, origin: CheckpointOrigin) -> None:
    for name in ("model_config", "body_digest", "points_digest", "seed", "fingerprint"):
        stored, here = getattr(record, name), getattr(origin, name)
        if stored != here and not (name in ("points_digest", "fingerprint") and "" in (stored, here)):
            raise CheckpointError(f"{path}: {name} is {stored!r}, this run has {here!r}")


def _require_names(path: Path, stored: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(set(tensors) - set(stored)), sorted(set(stored) - set(tensors))
    if missing or unknown:
        raise CheckpointError(f"{path}: {listed('missing', missing)}; {listed('unknown', unknown)}")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != stored[name]:
            raise CheckpointError(f"{path}: {name} is {list(stored[name])}, the model has {list(tensor.shape)}")
