"""`lhmforge train`: one training run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lhmforge.jobs.config import HardwareConfig
    from lhmforge.jobs.run_record import RunFolder, RunRecord


_Output = Annotated[Path, typer.Option(help="folder of the run")]
_Data = Annotated[
    list[str] | None, typer.Option(help="manifest.parquet; again for each further source (not with --config)")
]
_DataWeight = Annotated[
    list[float] | None, typer.Option(help="share of each --data in every step, in their order (default: equal)")
]
_DataName = Annotated[list[str] | None, typer.Option(help="name of each --data in the metrics")]
_SyntheticOnly = Annotated[
    bool, typer.Option("--synthetic-only", help="train on rendered people alone; held-out people stay the same")
]
_Preset = Annotated[str, typer.Option(help="tiny, mini, 0.5b, 0.7b or 1b")]
_Config = Annotated[Path | None, typer.Option(help="JSON of a whole TrainConfig; replaces --preset and the rest")]
_Steps = Annotated[int | None, typer.Option(help="optimiser steps (default: the preset's)")]
_NumEval = Annotated[int, typer.Option(help="identities held out from the first --data")]
_Subset = Annotated[int | None, typer.Option(help="take this many clips of the first --data (nested)")]
_Init = Annotated[
    Path | None, typer.Option(help="start from the weights of a checkpoint, export or `model import` (fine-tuning)")
]
_BodyEncoder = Annotated[Path | None, typer.Option(help="your Sapiens TorchScript file")]
_HeadEncoder = Annotated[Path | None, typer.Option(help="your DINOv2 weights")]
_Batch = Annotated[int | None, typer.Option(help="samples per worker and pass; the global batch stays")]
_Workers = Annotated[int, typer.Option(help="Ray Train workers; 0: in this process, without Ray")]
_Device = Annotated[str, typer.Option(help="cpu or cuda")]
_Threads = Annotated[int, typer.Option(help="CPU threads per worker")]
_Strategy = Annotated[str, typer.Option(help="ddp, or fsdp to shard the model over the workers")]
_CompileBlocks = Annotated[bool, typer.Option("--compile", help="torch.compile each block")]
_CheckpointBlocks = Annotated[
    bool, typer.Option("--checkpoint-blocks", help="recompute blocks in the backward pass; only if memory needs it")
]
_Body = Annotated[Path | None, typer.Option(help="your SMPL-X npz (default: the embedded free body)")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="one setting by its path, e.g. loss.asap=0 or model.architecture=plain; again"),
]
_Resume = Annotated[bool, typer.Option("--resume", help="continue the newest checkpoint in the output folder")]
_TrackingUri = Annotated[str | None, typer.Option(help="MLflow store (default: SQLite in the output folder)")]


def train(
    output: _Output,
    data: _Data = None,
    data_weight: _DataWeight = None,
    data_name: _DataName = None,
    synthetic_only: _SyntheticOnly = False,
    preset: _Preset = "tiny",
    config: _Config = None,
    steps: _Steps = None,
    num_eval: _NumEval = 1,
    subset: _Subset = None,
    init: _Init = None,
    body_encoder: _BodyEncoder = None,
    head_encoder: _HeadEncoder = None,
    batch: _Batch = None,
    workers: _Workers = 0,
    device: _Device = "cpu",
    threads: _Threads = 1,
    strategy: _Strategy = "ddp",
    compile_blocks: _CompileBlocks = False,
    checkpoint_blocks: _CheckpointBlocks = False,
    seed: int = 0,
    body: _Body = None,
    set_: _Set = None,
    resume: _Resume = False,
    tracking_uri: _TrackingUri = None,
) -> None:
    """Train LHM on curated shards; ends with a run record and held-out scores."""
    from lhmforge.datasets.errors import ConfigError
    from lhmforge.jobs.config import DataConfig, sources_of, train_config_from_json
    from lhmforge.jobs.recipes import fine_tuned, read_json, train_recipe, with_batch, with_encoders
    from lhmforge.jobs.run_record import RunFolder
    from lhmforge.jobs.settings import with_settings
    from lhmforge.jobs.tracking import local_target
    from lhmforge.jobs.train import run_training

    if (config is None) == (not data):
        raise ConfigError("give the manifests of the data (--data) or a whole configuration (--config)")
    if config is not None:
        settings = train_config_from_json(read_json(config), where=str(config))
    else:
        settings = train_recipe(
            preset,
            data=DataConfig(
                sources=sources_of(data or [], data_weight or [], data_name or []),
                num_eval=num_eval,
                subset_size=subset,
                synthetic_only=synthetic_only,
            ),
            num_steps=steps,
            seed=seed,
            hardware=_hardware(workers, device, threads, strategy, compile_blocks, checkpoint_blocks),
            body=None if body is None else str(body),
        )
        settings = fine_tuned(settings, init) if init is not None else settings
        settings = with_encoders(settings, body=body_encoder, head=head_encoder)
        settings = with_batch(settings, batch) if batch is not None else settings
    settings = with_settings(settings, set_ or ())
    record = run_training(settings, output, resume=resume, tracking=local_target(output, uri=tracking_uri))
    _print_record(record, RunFolder(output), tracking_uri)


def _hardware(
    workers: int, device: str, threads: int, strategy: str, compile_blocks: bool, checkpoint_blocks: bool
) -> HardwareConfig:
    from lhmforge.datasets.config_json import JsonValue, from_json
    from lhmforge.jobs.config import HardwareConfig

    flags: dict[str, JsonValue] = {
        "num_workers": workers,
        "device": device,
        "threads_per_worker": threads,
        "strategy": strategy,
        "compile": compile_blocks,
        "checkpoint_blocks": checkpoint_blocks,
    }
    return from_json(HardwareConfig, flags, where="hardware")


def _print_record(record: RunRecord, folder: RunFolder, tracking_uri: str | None) -> None:
    scores = ", ".join(f"{name} {value:.4g}" for name, value in sorted(record.metrics.items()))
    print(f"{record.steps} steps, {record.samples_seen} samples, {record.epochs:.1f} epochs, {record.seconds:.0f} s")
    print(f"held out: {scores}")
    print(f"record      {folder.record}\ncheckpoints {folder.checkpoints}\nrenders     {folder.renders}")
    print(f"model       {folder.exported}")
    print(f"tracking    {tracking_uri or folder.tracking}")
