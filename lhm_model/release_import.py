"""Turns a released LHM checkpoint into a checkpoint folder of this project."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.config_json import to_json
from lhmforge.datasets.errors import CheckpointError
from lhmforge.datasets.loader import LoaderConfig
from lhmforge.lhm_model.checkpoint import FORMAT, CheckpointRecord
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.point_binding import bind_points, read_point_ply
from lhmforge.lhm_model.query_points import QueryPoints, sample_query_points
from lhmforge.lhm_model.weight_files import read_weight_file
from lhmforge.lhm_model.weights import ImportReport, import_release


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedCheckpoint:
    """What was written where, and what did not fit."""

    folder: Path
    report: ImportReport
    points_given: bool  # false: the query points are a fresh draw, which the weights do not know


def release_config(config: ModelConfig) -> ModelConfig:
    """`config` as the release runs it: compat mode, no mask token."""
    return replace(config, compat=True, head_token_shrinkage=0.0)


def release_sampling(config: ModelConfig) -> LoaderConfig:
    """How the release's training cut its pictures (lhm_spec sections 1.1 and 2.2): 5:3 portraits, head crops of 448.

    Sources of 504 x 840 px are those of its first stage and of the HF files; the body encoder enlarges them.
    """
    return LoaderConfig(source_size=(504, 840), target_size=(384, 640), head_size=config.head_encoder.image_size)


def import_checkpoint(
    checkpoint: Path,
    config: ModelConfig,
    body: BodyModel,
    output: Path,
    *,
    point_file: Path | None = None,
    allow_missing: bool = False,
) -> ImportedCheckpoint:
    """Writes the checkpoint folder `output` (step 0) from a released file.

    The frozen body encoder is no part of it. Without `point_file` the query points are drawn anew. Raises
    `CheckpointError` with the whole report when a tensor has another shape or, unless `allow_missing`, when the file
    leaves a parameter of ours empty; also when `output` exists. Unexpected tensors are reported, not refused: released
    files carry body tables that this project takes from the body file.
    """
    if output.exists():
        raise CheckpointError(f"{output}: exists already; choose another folder")
    config = release_config(config)
    points = _points(config, body, point_file)
    model = LHM(_without_body_network(config), body, points)
    report = import_release(model, read_weight_file(checkpoint))
    if report.wrong_shape or (report.missing and not allow_missing):
        raise CheckpointError(f"{checkpoint}: does not fill the preset {config.name!r}\n{describe(report)}")
    _write_folder(output, model, config, body)
    return ImportedCheckpoint(folder=output, report=report, points_given=point_file is not None)


def describe(report: ImportReport) -> str:
    """The report as text; every unmatched tensor has a line."""
    lines = [f"{len(report.loaded)} parameters loaded"]
    for title, names in (
        ("missing in the file", report.missing),
        ("unexpected in the file", report.unexpected),
        ("of wrong shape or value", report.wrong_shape),
        ("constants without trained values", report.constants),
    ):
        lines.append(f"{len(names)} {title}")
        lines += [f"  {name}" for name in names]
    return "\n".join(lines)


def _points(config: ModelConfig, body: BodyModel, point_file: Path | None) -> QueryPoints:
    if point_file is None:
        return sample_query_points(body, config)
    positions = read_point_ply(point_file)
    if len(positions) != config.num_points:
        raise CheckpointError(
            f"{point_file}: {len(positions)} points, the preset {config.name!r} has {config.num_points}"
        )
    return bind_points(body, positions, num_body=config.num_body_points, leg_spread_deg=config.canonical_leg_spread_deg)


def _without_body_network(config: ModelConfig) -> ModelConfig:
    """The frozen encoder is loaded from its own file later: importing needs neither it nor its memory."""
    if not config.body_encoder.frozen:
        return config
    return replace(config, body_encoder=replace(config.body_encoder, kind="vit", depth=0))


def _write_folder(output: Path, model: LHM, config: ModelConfig, body: BodyModel) -> None:
    partial = output.with_name(f".partial_{output.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = partial / "model.safetensors"
    safetensors.torch.save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    model_config = to_json(config)
    assert isinstance(model_config, dict)
    record = CheckpointRecord(
        format=FORMAT,
        step=0,
        samples_seen=0,
        seconds=0.0,
        seed=0,
        world_size=1,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        body_digest=body.digest,
        model_config=model_config,
        run_config={"loader": to_json(release_sampling(config))},
        points_digest=model.points_digest,
        position={},
        scores={},
        sha256={weights.name: digest},
    )
    (partial / "checkpoint.json").write_text(json.dumps(to_json(record), indent=1) + "\n")
    partial.rename(output)
