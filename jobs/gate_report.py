"""What the gate's scores are worth: a ROC curve per score, by the truth and by what was spoiled, as JSON and a plot."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lhmforge.datasets import storage
from lhmforge.datasets.codecs import JsonValue, encode_json
from lhmforge.datasets.errors import CorpusError
from lhmforge.jobs.gate_trials import CLEAN, GateTrial
from lhmforge.pipelines.qa.roc import OperatingPoint, RocCurve, roc_curve
from lhmforge.pipelines.stages.gate import GateStage


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCurves:
    """One score of a track or of a frame: its curve by the truth, and by whether the track was spoiled."""

    reason: str  # code of the gate's check; "": the gate has none for it
    is_frame: bool
    by_truth: RocCurve
    by_spoiling: RocCurve | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRow:
    """The tracks of one kind of corruption, and what the whole gate did with them."""

    kind: str
    num_tracks: int
    num_bad_tracks: int
    num_rejected: int
    num_bad_rejected: int
    num_frames: int
    num_bad_frames: int
    num_kept_frames: int
    num_bad_kept: int
    reasons: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCalibration:
    """All curves, the gate as a whole per kind of corruption, and its limit of good ones lost."""

    curves: tuple[ScoreCurves, ...]
    kinds: tuple[KindRow, ...]  # the last one sums up
    max_fpr: float


def calibrate(trials: Sequence[GateTrial], gate: GateStage, *, max_fpr: float) -> GateCalibration:
    """Curves of every score; raises `CorpusError` when the truth calls all trials good or all bad."""
    curves = [*_track_curves(trials, gate, max_fpr), *_frame_curves(trials, gate, max_fpr)]
    if not curves:
        raise CorpusError(f"{len(trials)} trials hold no bad one, or no good one; use more clips")
    names = list(dict.fromkeys(trial.kind for trial in trials))
    kinds = [_kind_row(name, [trial for trial in trials if trial.kind == name]) for name in names]
    return GateCalibration(curves=tuple(curves), kinds=(*kinds, _kind_row("all", trials)), max_fpr=max_fpr)


def write_calibration(found: GateCalibration, output: Path) -> tuple[Path, Path]:
    """Writes `gates.json` and `gates.png` into `output`."""
    content: dict[str, JsonValue] = {
        "max_fpr": found.max_fpr,
        "curves": [_curves_json(curves) for curves in found.curves],
        "kinds": [_kind_json(row) for row in found.kinds],
    }
    report, plot = output / "gates.json", output / "gates.png"
    storage.publish(report, (encode_json(content),))
    _plot(found, plot)
    return report, plot


def _track_curves(trials: Sequence[GateTrial], gate: GateStage, max_fpr: float) -> list[ScoreCurves]:
    bad = np.array([trial.evaluation.is_bad for trial in trials])
    spoiled = np.array([trial.kind != CLEAN for trial in trials])
    groups = [trial.source_id for trial in trials]
    values = {
        check.score: np.array([getattr(trial.scores, check.score) for trial in trials], np.float64)
        for check in gate.checks
    }
    rows: list[tuple[str, str, float | None, bool, np.ndarray]] = [
        (check.reason, check.score, check.limit, check.is_minimum, values[check.score]) for check in gate.checks
    ]
    uncertainty = np.array([float(trial.evaluation.reported_rad.mean()) for trial in trials])
    dropped = np.array([float(1 - trial.frame_ok.mean()) for trial in trials])
    share = 1 - gate.min_good_share
    rows += [
        ("too_few_good_frames", "dropped_frames", share, False, dropped),
        ("", "uncertainty", None, False, uncertainty),
    ]
    return _curves(rows, bad, spoiled, groups, max_fpr, is_frame=False)


def _frame_curves(trials: Sequence[GateTrial], gate: GateStage, max_fpr: float) -> list[ScoreCurves]:
    bad = np.concatenate([trial.evaluation.bad_frames for trial in trials])
    spoiled = np.concatenate([np.full(len(trial.frame_ok), trial.kind != CLEAN) for trial in trials])
    groups = [trial.source_id for trial in trials for _ in trial.frame_ok]
    reprojection = np.concatenate([trial.frame_reprojection for trial in trials])
    matte_iou = np.concatenate([trial.frame_matte_iou for trial in trials])
    uncertainty = np.concatenate([trial.evaluation.reported_rad for trial in trials])
    rows = [
        ("frame_ok", "frame_reprojection", gate.max_frame_reprojection, False, reprojection),
        ("frame_ok", "frame_matte_iou", gate.min_frame_matte_iou, True, matte_iou),
        ("", "frame_uncertainty", None, False, uncertainty),
    ]
    return _curves(rows, bad, spoiled, groups, max_fpr, is_frame=True)


def _curves(
    rows: Sequence[tuple[str, str, float | None, bool, np.ndarray]],
    bad: np.ndarray,
    spoiled: np.ndarray,
    groups: Sequence[str],
    max_fpr: float,
    *,
    is_frame: bool,
) -> list[ScoreCurves]:
    found = []
    for reason, name, limit, is_minimum, values in rows:
        by_truth, by_spoiling = (
            roc_curve(name, values, labels, groups, low_is_bad=is_minimum, threshold=limit, max_fpr=max_fpr)
            for labels in (bad, spoiled)
        )
        if by_truth is not None:
            found.append(ScoreCurves(reason=reason, is_frame=is_frame, by_truth=by_truth, by_spoiling=by_spoiling))
    return found


def _kind_row(kind: str, trials: Sequence[GateTrial]) -> KindRow:
    rejected = [trial for trial in trials if trial.reason]
    kept = [trial.evaluation.bad_frames[trial.frame_ok] for trial in trials if not trial.reason]
    reasons = Counter(trial.reason for trial in rejected)
    return KindRow(
        kind=kind,
        num_tracks=len(trials),
        num_bad_tracks=sum(trial.evaluation.is_bad for trial in trials),
        num_rejected=len(rejected),
        num_bad_rejected=sum(trial.evaluation.is_bad for trial in rejected),
        num_frames=sum(len(trial.frame_ok) for trial in trials),
        num_bad_frames=sum(int(trial.evaluation.bad_frames.sum()) for trial in trials),
        num_kept_frames=sum(len(frames) for frames in kept),
        num_bad_kept=sum(int(frames.sum()) for frames in kept),
        reasons=tuple(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
    )


def _curves_json(curves: ScoreCurves) -> dict[str, JsonValue]:
    truth, spoiling = curves.by_truth, curves.by_spoiling
    return {
        "score": truth.name,
        "reason": curves.reason,
        "level": "frame" if curves.is_frame else "track",
        "num_bad": truth.num_bad,
        "num_good": truth.num_good,
        "auc": truth.auc,
        "auc_5": truth.auc_low,
        "auc_95": truth.auc_high,
        "auc_of_spoiled": None if spoiling is None else spoiling.auc,
        "now": None if truth.now is None else _point_json(truth.now),
        "at_max_fpr": _point_json(truth.chosen),
        "fpr": _thinned(truth.fpr),
        "tpr": _thinned(truth.tpr),
    }


def _point_json(point: OperatingPoint) -> dict[str, JsonValue]:
    threshold = point.threshold if math.isfinite(point.threshold) else None
    return {"threshold": threshold, "tpr": point.tpr, "fpr": point.fpr}


def _thinned(values: np.ndarray) -> list[float]:
    """At most 200 points of a curve."""
    chosen = np.unique(np.linspace(0, len(values) - 1, min(200, len(values))).round().astype(int))
    return [round(float(value), 4) for value in values[chosen]]


def _kind_json(row: KindRow) -> dict[str, JsonValue]:
    counts: dict[str, JsonValue] = {
        name: getattr(row, name) for name in KindRow.__dataclass_fields__ if name.startswith("num_")
    }
    return {"kind": row.kind, **counts, "reasons": dict(row.reasons)}


def _plot(found: GateCalibration, path: Path) -> None:
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.8), dpi=90)
    canvas = FigureCanvasAgg(figure)
    for axes, is_frame in zip(figure.subplots(1, 2), (False, True), strict=True):
        chosen = sorted(
            (curves for curves in found.curves if curves.is_frame == is_frame), key=lambda c: -c.by_truth.auc
        )
        for curves in chosen:
            roc = curves.by_truth
            line = axes.plot(roc.fpr, roc.tpr, label=f"{roc.name} {roc.auc:.2f}", lw=1.5)[0]
            if roc.now is not None:
                axes.plot(roc.now.fpr, roc.now.tpr, "o", color=line.get_color(), ms=5)
        axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls="--")
        axes.set(xlabel="share of the good turned away", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_ylabel("share of the bad turned away")
        bad, good = (chosen[0].by_truth.num_bad, chosen[0].by_truth.num_good) if chosen else (0, 0)
        axes.set_title(
            f"{'frames' if is_frame else 'tracks'}: {bad} bad, {good} good; dots: thresholds in use", fontsize=9
        )
        axes.legend(fontsize=7, loc="lower right", title="score, AUC", title_fontsize=7)
    figure.tight_layout()
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    storage.publish(path, (buffer.getvalue(),))
