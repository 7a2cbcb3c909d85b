"""Reads what training runs left in their folders: numbers for tables, curves and a sheet of renders as pictures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from PIL import Image

from lhmforge.jobs.metrics_log import read_entries
from lhmforge.jobs.run_record import RunFolder

_WARM_UP_REPORTS = 3
_MAX_SHEET_WIDTH_PX = 2200


class Summary(TypedDict):
    """Medians over the reports after the warm-up; 0 and empty where a run never reported."""

    steps: int
    samples_per_s: float
    step_s: float
    fetch_s: float
    mfu: float
    gpu_peak_gb: float
    checkpoint_blocked_s: list[float]
    losses: list[float]
    held_out: dict[str, float]


def run_summary(folder: RunFolder) -> Summary:
    """What the run reported so far, finished or not."""
    entries = read_entries(folder.metrics)
    reports = [entry.values for entry in entries if "samples_per_s" in entry.values]
    steady = reports[_WARM_UP_REPORTS:] or reports
    medians = {
        name: statistics.median([values.get(name, 0.0) for values in steady] or [0.0])
        for name in ("samples_per_s", "step_s", "fetch_s", "mfu", "gpu_peak_gb")
    }
    scored = [entry.values for entry in entries if "eval_psnr" in entry.values]
    return Summary(
        steps=max((entry.step for entry in entries), default=0),
        samples_per_s=medians["samples_per_s"],
        step_s=medians["step_s"],
        fetch_s=medians["fetch_s"],
        mfu=medians["mfu"],
        gpu_peak_gb=medians["gpu_peak_gb"],
        checkpoint_blocked_s=[e.values["checkpoint_blocked_s"] for e in entries if "checkpoint_blocked_s" in e.values],
        losses=[values["loss"] for values in reports],
        held_out=scored[-1] if scored else {},
    )


def curves_picture(runs: Mapping[str, RunFolder], path: Path) -> None:
    """Loss and held-out PSNR over samples seen, one line per run."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for name, folder in runs.items():
        entries = read_entries(folder.metrics)
        losses = [(e.values["samples_seen"], e.values["loss"]) for e in entries if "loss" in e.values]
        per_step = [e.values["samples_seen"] / e.step for e in entries if "samples_seen" in e.values]
        scores = [
            (e.step * per_step[-1], e.values["eval_psnr"]) for e in entries if per_step and "eval_psnr" in e.values
        ]
        if losses:
            left.plot(*zip(*losses, strict=True), label=name, linewidth=1.2)
        if scores:
            right.plot(*zip(*scores, strict=True), marker="o", label=name)
    left.set(xlabel="samples seen", ylabel="training loss", yscale="log")
    right.set(xlabel="samples seen", ylabel="held-out PSNR, dB")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def sheet_picture(folder: RunFolder, path: Path) -> None:
    """The last sheet of held-out renders, as a JPEG that is small enough to send."""
    sheets = sorted(folder.renders.glob("*.png"))
    if sheets:
        with Image.open(sheets[-1]) as sheet:
            sheet.thumbnail((_MAX_SHEET_WIDTH_PX, 4 * _MAX_SHEET_WIDTH_PX))
            sheet.convert("RGB").save(path, quality=88)
