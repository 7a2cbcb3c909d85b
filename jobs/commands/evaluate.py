"""`lhmforge evaluate`: score a checkpoint on held-out people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="a checkpoint, or the run folder it lies in")],
    output: Annotated[Path, typer.Option(help="folder for evaluation.md, evaluation.json and renders.png")],
    data: Annotated[Path | None, typer.Option(help="another manifest.parquet (default: that of the run)")] = None,
    all_clips: Annotated[bool, typer.Option("--all-clips", help="every clip of --data, not a held-out split")] = False,
    views: Annotated[int | None, typer.Option(help="target views per clip (default: as in training)")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    body: Annotated[Path | None, typer.Option(help="SMPL-X npz of the training run (default: free body)")] = None,
    faces: Annotated[
        str, typer.Option(help="face consistency by sface (embedded), the path of your arcface_resnet18.pth, or none")
    ] = "sface",
) -> None:
    """Print held-out scores; write a table with every clip and a sheet of source, targets and predictions."""
    from lhmforge.jobs.evaluation import evaluate_checkpoint

    result = evaluate_checkpoint(
        checkpoint, output, manifest=data, all_clips=all_clips, num_views=views, device=device, body=body, faces=faces
    )
    print(f"{len(result.rows)} held-out clips, {result.seconds_per_image:.3f} s per image on {device}")
    for name, value in sorted(result.means.items()):
        print(f"  {name:<18}{value:.4f}")
    print(f"table   {output / 'evaluation.md'}\njson    {output / 'evaluation.json'}\nrenders {output / 'renders.png'}")
