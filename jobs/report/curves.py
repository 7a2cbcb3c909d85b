"""What a study shows per metric: raw values for people, errors (lower is better) for the law, and the picture."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lhmforge.jobs.run_record import RunRecord
from lhmforge.jobs.scaling_law import ScalingPoint, ScalingVerdict, judge


@dataclass(frozen=True, slots=True)
class Metric:
    """A held-out metric, and how it turns into a positive error and back."""

    name: str
    label: str
    error_label: str
    to_error: Callable[[float], float]
    from_error: Callable[[float], float]


def _same(value: float) -> float:
    return value


def _psnr_to_error(value: float) -> float:
    return float(10 ** (-value / 20))


def _error_to_psnr(error: float) -> float:
    return -20 * math.log10(error)


METRICS = (
    Metric("psnr", "PSNR (dB), higher is better", "root mean square error", _psnr_to_error, _error_to_psnr),
    Metric("ssim", "SSIM, higher is better", "1 - SSIM", lambda v: 1 - v, lambda e: 1 - e),
    Metric("lpips", "LPIPS, lower is better", "LPIPS", _same, _same),
    Metric("face_consistency", "face consistency, lower is better", "face consistency", _same, _same),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric over training-set size."""

    metric: Metric
    points: tuple[ScalingPoint, ...]
    verdict: ScalingVerdict
    svg: str


def study_curves(records: Sequence[RunRecord], *, compute: str) -> list[Curve]:
    """A curve for each metric that every record has; the records must be comparable (see `pools`)."""
    curves = []
    for metric in METRICS:
        if not records or any(metric.name not in record.metrics for record in records):
            continue
        points = tuple(
            ScalingPoint(size=r.unique_clips, seed=r.seed, error=metric.to_error(r.metrics[metric.name]))
            for r in records
        )
        if min(point.error for point in points) <= 0:
            continue
        verdict = judge(points)
        curves.append(Curve(metric=metric, points=points, verdict=verdict, svg=_draw(metric, points, verdict, compute)))
    return curves


def pools(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Groups of records that may share a curve: same curation, same held-out clips, same model."""
    groups: dict[tuple[object, ...], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((record.curation_fingerprints, record.evaluation_digest, record.preset), []).append(record)
    return list(groups.values())


def _draw(metric: Metric, points: Sequence[ScalingPoint], verdict: ScalingVerdict, compute: str) -> str:
    """The curve as inline SVG: seeds as dots, means as a line, the law and its 95 % band where one was fitted."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.4))
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    sizes = sorted({point.size for point in points})
    means = [np.mean([metric.from_error(p.error) for p in points if p.size == size]) for size in sizes]
    axes.plot(sizes, means, "-", color="#4c72b0", label="mean over seeds")
    axes.plot(
        [p.size for p in points], [metric.from_error(p.error) for p in points], "o", color="#4c72b0", label="seeds"
    )
    if verdict.law is not None and verdict.band:
        grid = np.array([row[0] for row in verdict.band])
        axes.plot(
            grid, [metric.from_error(e) for e in verdict.law.error(grid)], "--", color="#c44e52", label="fitted law"
        )
        low, high = ([metric.from_error(row[i]) for row in verdict.band] for i in (1, 2))
        axes.fill_between(grid, low, high, color="#c44e52", alpha=0.15, label="95 % band")
    if verdict.held_out is not None:
        test = verdict.held_out
        ends = sorted(metric.from_error(e) for e in (test.interval.low, test.interval.high))
        middle = metric.from_error(test.predicted)
        axes.errorbar(test.size, middle, yerr=[[max(0.0, middle - ends[0])], [max(0.0, ends[1] - middle)]], fmt="s",
                      color="#55a868", capsize=4, label="predicted before use")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("unique training clips")
    axes.set_ylabel(metric.label)
    axes.set_title(compute.replace("_", " "), fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": metric.name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
