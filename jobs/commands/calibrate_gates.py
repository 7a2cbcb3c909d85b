"""`lhmforge calibrate-gates`: what every score of the gate is worth, on synthetic clips and spoiled versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from lhmforge.jobs.gate_report import GateCalibration


def calibrate_gates(
    data: Annotated[Path, typer.Option(help="output folder of `lhmforge curate` on synthetic clips, with its cache")],
    truth: Annotated[
        Path | None, typer.Option(help="folder made by `lhmforge synthesize` (default: beside the curated inputs)")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for JSON and plot (default: DATA/gates)")] = None,
    max_fpr: Annotated[float, typer.Option(help="share of the good that a threshold may turn away")] = 0.05,
    seed: Annotated[int, typer.Option(help="of the corruptions")] = 0,
    all_kinds: Annotated[
        bool, typer.Option("--all-kinds", help="spoil every track in all nine ways (slow), not in one of each group")
    ] = False,
) -> None:
    """Spoils the curated tracks in several ways, measures them against the truth, and prints the ROC of each gate."""
    from rich.console import Console

    from lhmforge.datasets.body.model import BodyModel
    from lhmforge.datasets.body.resolve import body_path
    from lhmforge.datasets.errors import CorpusError
    from lhmforge.datasets.synthetic.corpus import read_truth
    from lhmforge.jobs.curation_evaluation import CuratedRun
    from lhmforge.jobs.gate_report import calibrate, write_calibration
    from lhmforge.jobs.gate_trials import collect_trials

    run = CuratedRun.open(data)
    truths, body = read_truth(truth or run.truth_folder()), BodyModel.load(body_path(run.config.fit.body or None))
    known = sorted(set(truths) & set(run.manifest.frame["source_id"]))
    fits = run.fits(known)
    if not fits:
        raise CorpusError(f"{data} has no stage cache of this version; run `lhmforge curate` on this folder again")
    folder = output or data / "gates"
    trials = collect_trials(run.config, fits, truths, body, cache=folder / "cache", seed=seed, all_kinds=all_kinds)
    found = calibrate(trials.trials, run.config.gate, max_fpr=max_fpr)
    paths = write_calibration(found, folder)
    console = Console()
    console.print(_curves(found))
    console.print(_kinds(found))
    if trials.rejected_before:
        listed = ", ".join(f"{reason}: {count}" for reason, count in trials.rejected_before.items())
        console.print(f"spoiled tracks that ended before the gate: {listed}")
    console.print("\n".join(str(path) for path in paths), soft_wrap=True)


def _curves(found: GateCalibration) -> Table:
    from rich.table import Table

    share = f"{100 * found.max_fpr:g} %"
    table = Table(
        "score", "bad / good", "AUC (5..95 %)", "AUC spoiled", "now", "TPR", "FPR", f"at {share}", "TPR", "FPR", "",
        title="scores against the truth (bad: PA-MPJPE > 80 mm, matte IoU < .9 or orientation > 60 degrees off)",
    )  # fmt: skip
    level = False
    for curves in found.curves:
        if curves.is_frame and not level:
            table.add_section()
            level = True
        roc, now, then = curves.by_truth, curves.by_truth.now, curves.by_truth.chosen
        spoiled = "-" if curves.by_spoiling is None else f"{curves.by_spoiling.auc:.2f}"
        table.add_row(
            roc.name,
            f"{roc.num_bad} / {roc.num_good}",
            f"{roc.auc:.2f} ({roc.auc_low:.2f}..{roc.auc_high:.2f})",
            spoiled,
            *(("-", "-", "-") if now is None else (f"{now.threshold:.3g}", f"{now.tpr:.2f}", f"{now.fpr:.2f}")),
            f"{then.threshold:.3g}",
            f"{then.tpr:.2f}",
            f"{then.fpr:.2f}",
            "" if roc.is_informative else "no information",
        )
    return table


def _kinds(found: GateCalibration) -> Table:
    from rich.table import Table

    table = Table(
        "spoiled by", "tracks", "bad", "turned down", "of the bad", "frames kept", "bad before", "bad kept", "reasons",
        title="the gate as a whole",
    )  # fmt: skip
    for row in found.kinds:
        table.add_row(
            row.kind,
            str(row.num_tracks),
            str(row.num_bad_tracks),
            str(row.num_rejected),
            f"{row.num_bad_rejected} of {row.num_bad_tracks}",
            f"{row.num_kept_frames} of {row.num_frames}",
            _percent(row.num_bad_frames, row.num_frames),
            _percent(row.num_bad_kept, row.num_kept_frames),
            ", ".join(f"{reason} {count}" for reason, count in row.reasons[:3]),
        )
    return table


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
