"""Seconds from a photo to an avatar on disk, stage by stage: first photo (models are loaded) and a later one.

    python benchmarks/photo_to_avatar.py --checkpoint RUN --image PHOTO [--repeats 3] [--device cpu]

The person is found, matted and fitted by curation's default backends on the CPU; the goals of the project (0.3 / 0.45 /
0.6 s for 0.5B / 0.7B / 1B on one H200) are for the network alone, the row `network`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.resolve import body_path
from lhmforge.jobs.animate import reconstruct, sampling_of
from lhmforge.jobs.photo import PhotoStages, fit_photo, read_photo
from lhmforge.lhm_model.avatar import write_avatar
from lhmforge.lhm_model.checkpoint_read import load_model
from lhmforge.lhm_model.model import LHM


@dataclass
class Clock:
    """Seconds by name, in the order in which they were first noted."""

    seconds: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, started: float) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class TimedStage:
    """A stage that notes how long it takes."""

    stage: Any
    clock: Clock

    @property
    def name(self) -> str:
        return str(self.stage.name)

    def __call__(self, record: Any, context: Any) -> list[Any]:
        started = time.perf_counter()
        results = list(self.stage(record, context))
        self.clock.note(self.name, started)
        return results


def one_photo(model: LHM, checkpoint: Path, image: Path, folder: Path) -> dict[str, float]:
    """Seconds of each part for one photo."""
    clock = Clock()
    whole = started = time.perf_counter()
    photo = read_photo(image)
    clock.note("read", started)
    stages = PhotoStages.default()
    timed = PhotoStages(**{part.name: TimedStage(getattr(stages, part.name), clock) for part in fields(stages)})
    fitted = fit_photo(photo, timed)
    started = time.perf_counter()
    avatar, _ = reconstruct(model, fitted.sample, sampling_of(checkpoint))
    clock.note("network", started)
    started = time.perf_counter()
    write_avatar(folder, avatar)
    clock.note("write", started)
    clock.note("all", whole)
    return clock.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    started = time.perf_counter()
    model = load_model(args.checkpoint, BodyModel.load(body_path(None))).to(args.device).eval()
    loaded_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        runs = [one_photo(model, args.checkpoint, args.image, Path(folder)) for _ in range(1 + args.repeats)]
    table = Table("part", "first photo, s", f"later, median of {args.repeats}, s", title=str(args.image.name))
    for name, first in runs[0].items():
        table.add_row(name, f"{first:.2f}", f"{statistics.median(run[name] for run in runs[1:]):.2f}")
    console = Console()
    console.print(table)
    console.print(f"loading the checkpoint took {loaded_s:.2f} s before that; device {args.device}")


if __name__ == "__main__":
    main()
