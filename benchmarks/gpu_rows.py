"""Rows of the GPU benchmarks' tables: timing, judging, printing."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table; `goal` says what to reach."""

    what: str
    value: float
    unit: str
    goal: str = ""
    note: str = ""


def run_parts(parts: Mapping[str, Callable[[], Iterator[Row]]], chosen: list[str], output: Path | None) -> None:
    """Prints the rows of the chosen parts as they come, and writes them all to `output` after each."""
    if DEVICE.type == "cuda":
        print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    rows: list[Row] = []
    for name in chosen:
        started = time.monotonic()
        for row in parts[name]():
            rows.append(row)
            print(f"  {row.what:<58} {row.value:10.4g} {row.unit:<10} {row.goal:<12} {row.note}", flush=True)
            if output:
                output.write_text(json.dumps([asdict(row) for row in rows], indent=1))
        print(f"[{name}: {time.monotonic() - started:.0f} s]", flush=True)


class Lap:
    """Seconds between calls, the device waited for."""

    def __init__(self, times: dict[str, list[float]]) -> None:
        self._times = times

    def start(self) -> None:
        wait()
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        wait()
        now = time.perf_counter()
        self._times.setdefault(name, []).append(now - self._last)
        self._last = now


def median_ms(run: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call, the device waited for, after two warm-up calls."""
    times = []
    for _ in range(repeats + 2):
        wait()
        started = time.perf_counter()
        run()
        wait()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[2:])


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def judged(what: str, value: float, limit: float) -> Row:
    assert value < 10 * limit, f"{what}: {value:.1e}"
    return Row(what=what, value=value, unit="", goal=f"<= {limit:.0e}", note="" if value <= limit else "ABOVE")


def relative(ours: Tensor, reference: Tensor) -> float:
    return float((ours.detach() - reference.detach()).norm() / reference.detach().norm())
