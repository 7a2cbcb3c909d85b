"""Numbers of a run in the form in which its report draws them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lhmforge.datasets.manifest import COST_STAGES, SCORE_NAMES, Manifest

_NUM_BINS = 24
# Score -> what it is, in words for the page.
SCORE_TEXTS = {
    "num_frames": "frames seen",
    "duration_s": "duration, s",
    "detection": "detector score",
    "reprojection": "reprojection error / box height",
    "matte_iou": "matte against body, IoU",
    "jitter": "joint acceleration, m/frame²",
    "coverage": "share of joints seen",
    "height_px": "person's height, px",
    "face_px": "face size, px",
    "hand_px": "hand size, px",
    "sharpness": "sharpness, variance of Laplacian",
    "motion": "motion, m/s",
    "view_rad": "yaw against the camera, rad",
    "shape_norm": "shape, RMS of betas",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Accepted and rejected tracks per bin of one score; the outer bins take in the far 1 % tails."""

    name: str
    text: str
    low: float
    high: float
    accepted: tuple[int, ...]
    rejected: tuple[int, ...]
    median: float
    num_missing: int

    @property
    def tallest(self) -> int:
        return max(1, *(a + r for a, r in zip(self.accepted, self.rejected, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """What one stage cost over the run, and per accepted frame."""

    stage: str
    seconds: float
    per_frame_s: float
    share: float


def score_histograms(manifest: Manifest) -> tuple[Histogram, ...]:
    """One histogram per score that any row has."""
    accepted, rejected = manifest.accepted(), manifest.rejected()
    found = []
    for name in SCORE_NAMES:
        good, bad = accepted[f"score_{name}"].to_numpy(float), rejected[f"score_{name}"].to_numpy(float)
        known_good, known_bad = good[np.isfinite(good)], bad[np.isfinite(bad)]
        known = np.concatenate([known_good, known_bad])
        if len(known) == 0:
            continue
        low, high = np.quantile(known, [0.01, 0.99])
        if high <= low:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, _NUM_BINS + 1)
        counts = [np.histogram(np.clip(values, low, high), edges)[0].tolist() for values in (known_good, known_bad)]
        found.append(
            Histogram(
                name=name,
                text=SCORE_TEXTS.get(name, name),
                low=float(low),
                high=float(high),
                accepted=tuple(counts[0]),
                rejected=tuple(counts[1]),
                median=float(np.median(known)),
                num_missing=int(len(good) - len(known_good)),
            )
        )
    return tuple(found)


def stage_seconds(manifest: Manifest) -> tuple[StageSeconds, ...]:
    """Seconds per stage over all rows, rejected ones included, divided by the accepted frames."""
    totals = {stage: float(manifest.frame[f"cost_{stage}_s"].sum()) for stage in COST_STAGES}
    everything = sum(totals.values())
    frames = max(1, num_frames(manifest.accepted()))
    return tuple(
        StageSeconds(stage=stage, seconds=seconds, per_frame_s=seconds / frames, share=seconds / everything)
        for stage, seconds in totals.items()
        if seconds > 0
    )


def num_frames(rows: pd.DataFrame) -> int:
    """Frames of the given rows together."""
    return int(rows["num_frames"].sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Counts of accepted samples per labelled interval of one quantity."""

    title: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def tallest(self) -> int:
        return max(1, *self.counts)


def coverages(manifest: Manifest) -> tuple[Coverage, ...]:
    """View, scale, motion and completeness of the accepted samples: what a model will and will not have seen."""
    rows = manifest.accepted()
    view = np.rad2deg(rows["score_view_rad"].to_numpy(float))
    angle = np.abs((view + 180.0) % 360.0 - 180.0)
    return (
        _intervals("view (0° faces the camera)", angle, (0, 30, 60, 90, 120, 150, 180), "°"),
        _intervals("person's height", rows["score_height_px"], (0, 128, 256, 384, 512, 768, 4096), " px"),
        _intervals("face size", rows["score_face_px"], (0, 16, 32, 64, 128, 256, 4096), " px"),
        _intervals("motion", rows["score_motion"], (0, 0.05, 0.1, 0.2, 0.4, 0.8, 10), " m/s"),
        _intervals("joints seen", rows["score_coverage"] * 100, (0, 40, 60, 70, 80, 90, 100), " %"),
        _intervals("frames per sample", rows["num_frames"], (0, 16, 32, 64, 128, 256, 10_000), ""),
    )


def _intervals(title: str, values: pd.Series | np.ndarray, edges: Sequence[float | int], unit: str) -> Coverage:
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    counts, _ = np.histogram(np.clip(known, edges[0], edges[-1]), edges)
    labels = [f"{low:g}–{high:g}{unit}" for low, high in itertools.pairwise(edges[:-1])]
    return Coverage(
        title=title, labels=(*labels, f"from {edges[-2]:g}{unit}"), counts=tuple(int(count) for count in counts)
    )
