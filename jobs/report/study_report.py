"""The report of a study: one static HTML page beside the study's points."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ConfigError
from lhmforge.jobs.report.curves import METRICS, Curve, pools, study_curves
from lhmforge.jobs.report.reference import PUBLISHED_SCALING, SOURCE
from lhmforge.jobs.run_record import RunRecord, load_record
from lhmforge.jobs.scale import StudyPlan, StudyPoint, load_plan, point_folder, study_points


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRow:
    """One line of the table; `record` is None for a point that has not finished."""

    point: StudyPoint
    record: RunRecord | None
    render: str | None  # relative to the report


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Comparable points and their curves."""

    records: list[RunRecord]
    curves: list[Curve]


def write_report(output: Path) -> Path:
    """Writes `report.html` into the study's folder from its plan and the records that exist.

    Raises `ConfigError` when the folder holds no plan.
    """
    plan = load_plan(output)
    if plan is None:
        raise ConfigError(f"{output} holds no plan.json; run `lhmforge study ... plan` first")
    rows = [_row(output, point) for point in study_points(plan.config)]
    records = [row.record for row in rows if row.record is not None]
    grouped = [Pool(records=group, curves=study_curves(group, compute=plan.config.compute)) for group in pools(records)]
    page = _render(plan, rows, grouped)
    path = output / "report.html"
    storage.publish(path, (page.encode(),))
    return path


def headline(plan: StudyPlan, num_done: int) -> str:
    """One honest sentence about how far the study goes."""
    total = sum(plan.config.seeds_per_size)
    sizes = len(plan.config.sizes)
    done = "all" if num_done == total else f"{num_done}"
    return (
        f"{done} of {total} points are finished: {sizes} nested training sets of {plan.config.sizes[0]} to "
        f"{plan.config.sizes[-1]} clips, judged on the same {plan.num_eval_clips} clips of people in none of them."
    )


def _row(output: Path, point: StudyPoint) -> PointRow:
    folder = point_folder(output, point)
    sheets = sorted(folder.renders.glob("*.png"))
    render = os.path.relpath(sheets[-1], output) if sheets else None
    return PointRow(point=point, record=load_record(folder.record), render=render)


def _render(plan: StudyPlan, rows: list[PointRow], grouped: list[Pool]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("lhmforge.jobs.report").joinpath("study.html").read_text()
    num_done = sum(row.record is not None for row in rows)
    shown = [metric for metric in METRICS if any(row.record and metric.name in row.record.metrics for row in rows)]
    return environment.from_string(source).render(
        plan=plan,
        rows=rows,
        pools=grouped,
        first=next((row.record for row in rows if row.record is not None), None),
        metrics=shown,
        headline=headline(plan, num_done),
        published=PUBLISHED_SCALING,
        published_source=SOURCE,
    )
