"""`lhmforge study`: plan, run and report a data-scaling study."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lhmforge.jobs.config import TrainConfig
    from lhmforge.jobs.scale import StudyPlan


_DataWeight = Annotated[
    list[float] | None, typer.Option(help="share of each --data in every step, in their order (default: equal)")
]
_TrackingUri = Annotated[str | None, typer.Option(help="MLflow store (default: SQLite in the output folder)")]


class Phase(StrEnum):
    """Which part of a study to do."""

    ALL = "all"
    PLAN = "plan"
    RUN = "run"
    REPORT = "report"


def study(
    output: Annotated[Path, typer.Option(help="folder of the study")],
    phase: Annotated[Phase, typer.Argument(help="plan, run, report, or all of them")] = Phase.ALL,
    data: Annotated[
        list[str] | None,
        typer.Option(help="manifest.parquet under study (not needed for report); more join every point whole"),
    ] = None,
    data_weight: _DataWeight = None,
    sizes: Annotated[str | None, typer.Option(help="training-set sizes, as 3,6,9 (default: 7 log-spaced ones)")] = None,
    seeds: Annotated[int | None, typer.Option(help="seeds per size (default: 3 below 30,000 clips, else 1)")] = None,
    preset: Annotated[str, typer.Option(help="tiny, mini, 0.5b, 0.7b or 1b")] = "tiny",
    steps: Annotated[int | None, typer.Option(help="equal steps: optimiser steps of every point")] = None,
    epochs: Annotated[float | None, typer.Option(help="equal epochs: passes over each point's clips")] = None,
    num_eval: Annotated[int, typer.Option(help="identities held out for evaluation")] = 1,
    stratify: Annotated[str, typer.Option(help="manifest columns whose proportions every subset keeps")] = "",
    workers: Annotated[int, typer.Option(help="Ray Train workers; 0: in this process, without Ray")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads per worker")] = 1,
    body: Annotated[Path | None, typer.Option(help="your SMPL-X npz (default: the embedded free body)")] = None,
    seconds_per_step: Annotated[
        float | None, typer.Option(help="known cost of a step (default: it is measured)")
    ] = None,
    tracking_uri: _TrackingUri = None,
) -> None:
    """Measure what more data buys: nested subsets, fixed held-out people, one run per point, one report."""
    from lhmforge.datasets.config_json import from_json
    from lhmforge.datasets.errors import ConfigError
    from lhmforge.jobs.config import DataConfig, HardwareConfig, sources_of
    from lhmforge.jobs.recipes import train_recipe
    from lhmforge.jobs.report.study_report import write_report
    from lhmforge.jobs.scale import run_study

    failures: dict[str, str] = {}
    if phase != Phase.REPORT:
        if not data:
            raise ConfigError("--data: give the manifest.parquet of a curation")
        if steps is not None and epochs is not None:
            raise ConfigError("give --steps (equal steps) or --epochs (equal epochs), not both")
        chosen = DataConfig(
            sources=sources_of(data, data_weight or []),
            num_eval=num_eval,
            stratify=tuple(name for name in stratify.split(",") if name),
        )
        hardware = from_json(
            HardwareConfig, {"num_workers": workers, "device": device, "threads_per_worker": threads}, where="hardware"
        )
        template = train_recipe(
            preset, data=chosen, num_steps=steps, hardware=hardware, body=None if body is None else str(body)
        )
        plan = _plan(template, output, sizes, seeds, epochs, seconds_per_step)
        _print_plan(plan, output)
        if phase != Phase.PLAN:
            failures = run_study(plan, output, tracking_uri=tracking_uri)
    if phase != Phase.PLAN:
        print(f"report {write_report(output)}")
    for name, error in failures.items():
        print(f"failed {name}: {error}")
    if failures:
        raise typer.Exit(1)


def _plan(
    template: TrainConfig,
    output: Path,
    sizes: str | None,
    seeds: int | None,
    epochs: float | None,
    seconds_per_step: float | None,
) -> StudyPlan:
    """The plan of the study; a step's cost is taken from the user, an earlier plan, or a short measurement."""
    from lhmforge.jobs.scale import StudyConfig, default_seeds, default_sizes, load_plan, plan_study
    from lhmforge.jobs.step_cost import measure_step_seconds
    from lhmforge.jobs.training_data import choose_data

    points = _sizes(sizes) if sizes else default_sizes(len(choose_data(template.data).pool_ids))
    config = StudyConfig(
        train=template,
        sizes=points,
        seeds_per_size=default_seeds(points) if seeds is None else (seeds,) * len(points),
        compute="equal_steps" if epochs is None else "equal_epochs",
        epochs=epochs,
    )
    before = load_plan(output)
    cost = seconds_per_step or (before.seconds_per_step if before else None) or measure_step_seconds(template)
    return plan_study(config, output, seconds_per_step=cost)


def _print_plan(plan: StudyPlan, output: Path) -> None:
    config = plan.config
    print(f"plan {output / 'plan.json'}: {config.compute.replace('_', ' ')}, {plan.num_eval_clips} held-out clips")
    for size, num_seeds, steps, epochs in zip(
        config.sizes, config.seeds_per_size, plan.steps, plan.epochs, strict=True
    ):
        print(f"  {size:>8} clips x {num_seeds} seed{'s' if num_seeds > 1 else ''}: {steps} steps, {epochs:.1f} epochs")
    if plan.expected_exponent_width is None:
        print("  expected exponent: fewer than three sizes, no law can be fitted")
    else:
        print(f"  expected 95 % interval of the exponent: {plan.expected_exponent_width:.2f} wide")
    if plan.predicted_seconds is None:
        print("  predicted cost: unknown (give --seconds-per-step)")
    else:
        print(f"  predicted cost: {plan.predicted_seconds / 60:.1f} minutes at {plan.seconds_per_step:.2f} s per step")


def _sizes(text: str) -> tuple[int, ...]:
    from lhmforge.datasets.errors import ConfigError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--sizes: {text!r} is not a list of whole numbers such as 3,6,9") from None
