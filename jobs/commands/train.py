"""`lhmforge train`: one training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    data: Annotated[Path, typer.Option(help="manifest.parquet of a curation")],
    output: Annotated[Path, typer.Option(help="folder of the run")],
    preset: Annotated[str, typer.Option(help="tiny, mini, 0.5b, 0.7b or 1b")] = "tiny",
    config: Annotated[
        Path | None, typer.Option(help="JSON of a whole TrainConfig; replaces --preset and the rest")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="optimiser steps (default: the preset's)")] = None,
    num_eval: Annotated[int, typer.Option(help="identities held out for evaluation")] = 1,
    subset: Annotated[int | None, typer.Option(help="train on this many clips (nested subsets)")] = None,
    workers: Annotated[int, typer.Option(help="Ray Train workers; 0: in this process, without Ray")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads per worker")] = 1,
    seed: int = 0,
    body: Annotated[Path | None, typer.Option(help="your SMPL-X npz (default: the embedded free body)")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue the newest checkpoint in the output folder")
    ] = False,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store (default: SQLite in the output folder)")
    ] = None,
) -> None:
    """Train LHM on curated shards; ends with a run record and held-out scores."""
    from lhmforge.datasets.config_json import from_json
    from lhmforge.jobs.config import DataConfig, HardwareConfig, TrainConfig
    from lhmforge.jobs.recipes import read_json, train_recipe
    from lhmforge.jobs.run_record import RunFolder
    from lhmforge.jobs.tracking import local_target
    from lhmforge.jobs.train import run_training

    if config is not None:
        settings = from_json(TrainConfig, read_json(config), where=str(config))
    else:
        hardware = from_json(
            HardwareConfig,
            {"num_workers": workers, "device": device, "threads_per_worker": threads},
            where="hardware",
        )
        settings = train_recipe(
            preset,
            data=DataConfig(manifest=str(data), num_eval=num_eval, subset_size=subset),
            num_steps=steps,
            seed=seed,
            hardware=hardware,
            body=None if body is None else str(body),
        )
    record = run_training(settings, output, resume=resume, tracking=local_target(output, uri=tracking_uri))
    folder = RunFolder(output)
    scores = ", ".join(f"{name} {value:.4g}" for name, value in sorted(record.metrics.items()))
    print(f"{record.steps} steps, {record.samples_seen} samples, {record.epochs:.1f} epochs, {record.seconds:.0f} s")
    print(f"held out: {scores}")
    print(f"record      {folder.record}\ncheckpoints {folder.checkpoints}\nrenders     {folder.renders}")
    print(f"tracking    {tracking_uri or folder.tracking}")
