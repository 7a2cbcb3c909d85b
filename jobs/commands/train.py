"""`lhmforge train`: one training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    output: Annotated[Path, typer.Option(help="folder of the run")],
    data: Annotated[
        list[str] | None, typer.Option(help="manifest.parquet; again for each further source (not with --config)")
    ] = None,
    data_weight: Annotated[
        list[float] | None, typer.Option(help="share of each --data in every step, in their order (default: equal)")
    ] = None,
    data_name: Annotated[list[str] | None, typer.Option(help="name of each --data in the metrics")] = None,
    synthetic_only: Annotated[
        bool, typer.Option("--synthetic-only", help="train on rendered people alone; held-out people stay the same")
    ] = False,
    preset: Annotated[str, typer.Option(help="tiny, mini, 0.5b, 0.7b or 1b")] = "tiny",
    config: Annotated[
        Path | None, typer.Option(help="JSON of a whole TrainConfig; replaces --preset and the rest")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="optimiser steps (default: the preset's)")] = None,
    num_eval: Annotated[int, typer.Option(help="identities held out from the first --data")] = 1,
    subset: Annotated[int | None, typer.Option(help="take this many clips of the first --data (nested)")] = None,
    init: Annotated[
        Path | None, typer.Option(help="start from the weights of a checkpoint, export or `model import` (fine-tuning)")
    ] = None,
    body_encoder: Annotated[Path | None, typer.Option(help="your Sapiens TorchScript file")] = None,
    head_encoder: Annotated[Path | None, typer.Option(help="your DINOv2 weights")] = None,
    batch: Annotated[int | None, typer.Option(help="samples per worker and pass; the global batch stays")] = None,
    workers: Annotated[int, typer.Option(help="Ray Train workers; 0: in this process, without Ray")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads per worker")] = 1,
    strategy: Annotated[str, typer.Option(help="ddp, or fsdp to shard the model over the workers")] = "ddp",
    compile_blocks: Annotated[bool, typer.Option("--compile", help="torch.compile each block")] = False,
    checkpoint_blocks: Annotated[
        bool, typer.Option("--checkpoint-blocks", help="recompute blocks in the backward pass; only if memory needs it")
    ] = False,
    seed: int = 0,
    body: Annotated[Path | None, typer.Option(help="your SMPL-X npz (default: the embedded free body)")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="one setting by its path, e.g. loss.asap=0 or model.architecture=plain; again"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue the newest checkpoint in the output folder")
    ] = False,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store (default: SQLite in the output folder)")
    ] = None,
) -> None:
    """Train LHM on curated shards; ends with a run record and held-out scores."""
    from lhmforge.datasets.config_json import JsonValue, from_json
    from lhmforge.datasets.errors import ConfigError
    from lhmforge.jobs.config import DataConfig, HardwareConfig, sources_of, train_config_from_json
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
        hardware: dict[str, JsonValue] = {
            "num_workers": workers,
            "device": device,
            "threads_per_worker": threads,
            "strategy": strategy,
            "compile": compile_blocks,
            "checkpoint_blocks": checkpoint_blocks,
        }
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
            hardware=from_json(HardwareConfig, hardware, where="hardware"),
            body=None if body is None else str(body),
        )
        settings = fine_tuned(settings, init) if init is not None else settings
        settings = with_encoders(settings, body=body_encoder, head=head_encoder)
        settings = with_batch(settings, batch) if batch is not None else settings
    settings = with_settings(settings, set_ or ())
    record = run_training(settings, output, resume=resume, tracking=local_target(output, uri=tracking_uri))
    folder = RunFolder(output)
    scores = ", ".join(f"{name} {value:.4g}" for name, value in sorted(record.metrics.items()))
    print(f"{record.steps} steps, {record.samples_seen} samples, {record.epochs:.1f} epochs, {record.seconds:.0f} s")
    print(f"held out: {scores}")
    print(f"record      {folder.record}\ncheckpoints {folder.checkpoints}\nrenders     {folder.renders}")
    print(f"model       {folder.exported}")
    print(f"tracking    {tracking_uri or folder.tracking}")
