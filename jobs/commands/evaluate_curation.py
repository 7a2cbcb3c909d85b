"""`lhmforge evaluate-curation`: a curation of synthetic clips against their truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from lhmforge.jobs.curation_evaluation import RunEvaluation

# name in the summary -> how the table says it; what is not named here is only in the JSON
_ROWS = {
    "mpjpe_mm": "MPJPE, mm",
    "pa_mpjpe_mm": "PA-MPJPE, mm",
    "pve_mm": "PVE, mm",
    "translation_mm": "translation error, mm",
    "orientation_deg": "global orientation error, degrees",
    "flipped_percent": "frames with more than 90 degrees of it, %",
    "shape_mm": "shape error (zero pose, per vertex), mm",
    "acceleration_mm": "acceleration error, mm / frame^2",
    "reprojection_px": "reprojection error of visible joints, px",
    "reprojection_percent": "the same, % of the person's height",
    "matte_iou": "matte IoU",
    "matte_mad": "matte MAD x 1000",
    "matte_gradient": "matte gradient error x 1000",
}


def evaluate_curation(
    data: Annotated[Path, typer.Option(help="output folder of `lhmforge curate` on synthetic clips")],
    truth: Annotated[
        Path | None, typer.Option(help="folder made by `lhmforge synthesize` (default: beside the curated inputs)")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for JSON and pictures (default: DATA/evaluation)")] = None,
    worst: Annotated[int, typer.Option(help="how many of the worst fits to draw")] = 5,
) -> None:
    """Prints pose, shape, matte, keypoint and tracking errors, and where every true person ended; writes JSON and
    pictures of the worst fits.
    """
    from rich.console import Console

    from lhmforge.datasets.body.model import BodyModel
    from lhmforge.datasets.body.resolve import body_path
    from lhmforge.datasets.synthetic import evaluation_report
    from lhmforge.datasets.synthetic.corpus import read_truth
    from lhmforge.jobs.curation_evaluation import CuratedRun, evaluate_run, json_sections

    run = CuratedRun.open(data)
    truths, body = read_truth(truth or run.truth_folder()), BodyModel.load(body_path(run.config.fit.body or None))
    evaluation = evaluate_run(run, truths, body)
    report = evaluation_report.write_report(
        evaluation.shards,
        run.manifest,
        truths,
        body,
        output or data / "evaluation",
        num_worst=worst,
        sections=json_sections(evaluation),
    )
    console = Console()
    for table in (_errors(evaluation), _tracking(evaluation), _fates(evaluation), _uncertainty(evaluation)):
        if table.row_count:
            console.print(table)
    for fit in report.worst:
        console.print(f"{fit.picture.name}: {fit.source_id}, frame {fit.frame}. {fit.diagnosis.sentence}")
    console.print(f"report   {report.json}", soft_wrap=True)


def _errors(evaluation: RunEvaluation) -> Table:
    from rich.table import Table

    summary = evaluation.shards.summary()
    table = Table("what", "mean", title=f"samples against truth: {len(evaluation.shards.samples)} in the shards")
    for name, text in _ROWS.items():
        if name in summary:
            table.add_row(text, _number(summary[name]))
    for name, value in summary.items():
        if name.startswith("pck_"):
            group, share = name.removeprefix("pck_").split("@")
            table.add_row(f"keypoints: {group} within {100 * float(share):g} % of the height, %", f"{100 * value:.1f}")
    return table


def _tracking(evaluation: RunEvaluation) -> Table:
    from rich.table import Table

    scores, counts = evaluation.tracking, evaluation.shards.tracking
    table = Table("what", "value", title="tracking, all tracks (boxes of rejected ones too)")
    table.add_row("IDF1", f"{scores.idf1:.3f}")
    table.add_row("MOTA", f"{scores.mota:.3f}")
    table.add_row("identity switches", str(scores.num_switches))
    table.add_row("recall / precision", f"{scores.recall:.3f} / {scores.precision:.3f}")
    table.add_row(
        "true person-frames / missed / false boxes", f"{scores.num_required} / {scores.num_missed} / {scores.num_false}"
    )
    table.add_section()
    table.add_row("persons with a sample", f"{counts.num_found} of {counts.num_persons}")
    table.add_row("samples / showing nobody", f"{counts.num_samples} / {counts.num_false}")
    table.add_row("identity switches inside samples", str(counts.num_switches))
    return table


def _fates(evaluation: RunEvaluation) -> Table:
    from rich.table import Table

    table = Table(
        "true person-frames", "count", "%", "PA-MPJPE mm", "MPJPE mm", "matte IoU", "bad, %",
        title="what became of every true person, and how wrong its fit was",
    )  # fmt: skip
    for fate in evaluation.fates:
        numbers = (fate.pa_mpjpe_mm, fate.mpjpe_mm, fate.matte_iou, 100 * fate.bad_share)
        errors = [_number(value) if fate.num_fitted else "-" for value in numbers]
        table.add_row(fate.name, str(fate.num_person_frames), f"{100 * fate.share:.1f}", *errors)
    return table


def _uncertainty(evaluation: RunEvaluation) -> Table:
    from rich.table import Table

    from lhmforge.jobs.uncertainty import EXPECTED_1, EXPECTED_2

    table = Table("what", "value", title="does a fit know how wrong it is: pose_uncertainty_rad")
    found = evaluation.uncertainty
    if found is None:
        return table
    table.add_row(
        "reported / true joint angle error, degrees (RMS)", f"{_deg(found.reported_rad)} / {_deg(found.true_rad)}"
    )
    table.add_row(
        "true / reported (5..95 % over tracks)", f"{found.factor:.2f} ({found.factor_low:.2f}..{found.factor_high:.2f})"
    )
    table.add_row(
        "rank correlation over frames / tracks", f"{found.rank_correlation:.2f} / {found.track_rank_correlation:.2f}"
    )
    table.add_row("frames within 1 / 2 sigma", f"{found.frames_within_1:.2f} / {found.frames_within_2:.2f}")
    table.add_row("the law that fits these frames", f"{found.law_scale_rad:.2f} x share ^ {found.law_exponent:.2f}")
    expected = f"(normal errors: {EXPECTED_1:.2f} / {EXPECTED_2:.2f})"
    table.add_row("joints within 1 / 2 sigma", f"{found.joints_within_1:.2f} / {found.joints_within_2:.2f} {expected}")
    return table


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _deg(radians: float) -> str:
    from math import degrees

    return f"{degrees(radians):.1f}"
