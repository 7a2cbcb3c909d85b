"""Scoring a finished checkpoint on people it was not trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from lhmforge.datasets import storage
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.resolve import body_path
from lhmforge.datasets.config_json import from_json, to_json
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.loader import LoaderConfig, evaluation_batches
from lhmforge.datasets.manifest import Manifest
from lhmforge.jobs.config import DataSource, TrainConfig, train_config_from_json
from lhmforge.jobs.evaluation_table import peak_resident_bytes, to_markdown
from lhmforge.jobs.face_identity import face_embedder
from lhmforge.jobs.gpu_memory import memory_explained
from lhmforge.jobs.training_data import choose_data, require_body
from lhmforge.lhm_model.checkpoint import CheckpointRecord, read_record, resolve_checkpoint
from lhmforge.lhm_model.checkpoint_read import load_model
from lhmforge.lhm_model.evaluate import Evaluation, evaluate
from lhmforge.lhm_model.perceptual import load_perceptual


def evaluate_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    manifest: Path | None = None,
    all_clips: bool = False,
    num_views: int | None = None,
    device: str = "cpu",
    body: Path | None = None,
    faces: str = "none",
) -> Evaluation:
    """Evaluates in the run's own sampling configuration and writes `evaluation.json`, `evaluation.md` and
    `renders.png` to `output`. `faces` is as in `face_embedder`.

    Without `manifest` the run's held-out people are used; with one, its split by the run's key, or all of its clips.

    Raises:
        ConfigError: `all_clips` without a manifest, or an unusable device.
        BodyError: the data was annotated with another body file than the model was trained with.
        CheckpointError, ShardError: the files are missing, altered or do not belong together.
    """
    if all_clips and manifest is None:
        raise ConfigError("--all-clips needs --data, else the model is judged on what it was trained on")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no usable CUDA device")
    folder = resolve_checkpoint(checkpoint)
    record = read_record(folder)
    config = _run_config(record, folder)
    if config is None and not all_clips:
        raise ConfigError(f"{folder}: imported weights have no run and no held-out people; give --data and --all-clips")
    body_model = BodyModel.load(body_path(str(body) if body else config.body if config else None))
    model = load_model(folder, body_model).to(device)
    chosen, ids = _held_out(config, manifest, all_clips)
    require_body(chosen, ids, record.body_digest)
    loader = config.loader if config else from_json(LoaderConfig, record.run_config.get("loader"), where=str(folder))
    loader = loader if num_views is None else replace(loader, num_target_views=num_views)
    perceptual = load_perceptual(config.perceptual if config else "vgg").to(device)
    with memory_explained("use fewer --views, or --device cpu"):
        result = evaluate(
            model,
            evaluation_batches(loader, chosen, ids),
            perceptual=perceptual,
            device=torch.device(device),
            face_embedder=face_embedder(faces),
            sheet=output / "renders.png",
        )
    table = {"checkpoint": str(folder), "manifest_digest": chosen.digest, "step": record.step, **to_table(result)}
    storage.publish(output / "evaluation.json", (json.dumps(table, indent=1).encode() + b"\n",))
    text = to_markdown(
        result, title=f"{folder} at step {record.step}", faces=faces, trunk=perceptual.trunk, device=device
    )
    storage.publish(output / "evaluation.md", (text.encode(),))
    return result


def to_table(result: Evaluation) -> dict[str, object]:
    """The JSON form of an evaluation: means, cost, one row per clip."""
    return {
        "means": result.means,
        "seconds_per_image": result.seconds_per_image,
        "peak_memory_bytes": result.peak_memory_bytes,
        "peak_resident_bytes": peak_resident_bytes(),
        "samples": to_json(result.rows),
    }


def _run_config(record: CheckpointRecord, folder: Path) -> TrainConfig | None:
    """The configuration of the checkpoint's run; None for imported weights."""
    return train_config_from_json(record.run_config, where=str(folder)) if "data" in record.run_config else None


def _held_out(config: TrainConfig | None, manifest: Path | None, all_clips: bool) -> tuple[Manifest, tuple[str, ...]]:
    if all_clips:
        chosen = Manifest.load(str(manifest))
        return chosen, chosen.ids()
    assert config is not None
    chosen_data = (
        config.data
        if manifest is None
        else replace(config.data, sources=(DataSource(manifest=str(manifest)),), subset_size=None)
    )
    data = choose_data(chosen_data)
    return data.manifest, data.eval_ids
