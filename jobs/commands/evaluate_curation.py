"""`lhmforge evaluate-curation`: curated samples of synthetic clips against their truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate_curation(
    data: Annotated[Path, typer.Option(help="output folder of `lhmforge curate`, or its manifest.parquet")],
    truth: Annotated[Path, typer.Option(help="folder made by `lhmforge synthesize`")],
    output: Annotated[Path | None, typer.Option(help="folder for JSON and pictures (default: DATA/evaluation)")] = None,
    worst: Annotated[int, typer.Option(help="how many of the worst fits to draw")] = 5,
    body: Annotated[str, typer.Option(help="body file that was fitted; free: the built-in one")] = "free",
) -> None:
    """Prints pose, shape, matte, keypoint and tracking errors; writes them as JSON with pictures of the worst fits."""
    from rich.console import Console
    from rich.table import Table

    from lhmforge.datasets.body.model import BodyModel
    from lhmforge.datasets.body.resolve import body_path
    from lhmforge.datasets.manifest import Manifest
    from lhmforge.datasets.synthetic import evaluate, evaluation_report
    from lhmforge.datasets.synthetic.corpus import read_truth

    manifest_path = data / "manifest.parquet" if data.is_dir() else data
    manifest, truths, model = Manifest.load(manifest_path), read_truth(truth), BodyModel.load(body_path(body))
    evaluation = evaluate.evaluate_curation(manifest, truths, model)
    folder = output or manifest_path.parent / "evaluation"
    paths = evaluation_report.write_report(evaluation, manifest, truths, model, folder, num_worst=worst)
    table = Table("what", "value", title=f"curation against truth: {len(evaluation.samples)} samples")
    for name, value in evaluation.summary().items():
        table.add_row(name, f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}")
    counts = evaluation.tracking
    table.add_section()
    table.add_row("persons found", f"{counts.num_found} of {counts.num_persons}")
    table.add_row("person-frames in samples", f"{100 * counts.frame_recall:.1f} %")
    table.add_row(
        "samples: all / false / extra per person", f"{counts.num_samples} / {counts.num_false} / {counts.num_fragments}"
    )
    table.add_row("identity switches inside samples", str(counts.num_switches))
    table.add_row("rejects", ", ".join(f"{reason}: {n}" for reason, n in counts.rejects.items()) or "none")
    Console().print(table)
    print("\n".join(str(path) for path in paths))
