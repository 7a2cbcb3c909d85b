"""`lhmforge animate`: a photo becomes an avatar, a rig and two videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def animate(
    checkpoint: Annotated[Path, typer.Option(help="checkpoint, checkpoints folder or run folder of a training")],
    image: Annotated[Path, typer.Option(help="photo of one person: any size and format")],
    output: Annotated[Path, typer.Option(help="folder for the avatar, the rig and the videos")],
    motion: Annotated[
        str, typer.Option(help="FILE.npz (SMPL-X or AMASS) or MANIFEST.parquet#KEY; default: walk and wave")
    ] = "",
    body: Annotated[str | None, typer.Option(help="SMPL-X npz of the training; default: the free body")] = None,
    person: Annotated[int | None, typer.Option(help="which person of several, counted from the left from 0")] = None,
    width: Annotated[int, typer.Option(help="of the videos, pixels")] = 384,
    height: Annotated[int, typer.Option(help="of the videos, pixels")] = 640,
    fps: Annotated[float, typer.Option(help="frames per second of the videos")] = 24.0,
    max_seconds: Annotated[float, typer.Option(help="longer motions are cut")] = 60.0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Reconstructs the person of a photo as animatable Gaussians, and shows them in motion."""
    from tqdm import tqdm

    from lhmforge.jobs import animate as job

    config = job.AnimateConfig(
        checkpoint=checkpoint, image=image, output=output, motion=motion, body=body, person=person, width=width,
        height=height, fps=fps, max_seconds=max_seconds, device=device,
    )  # fmt: skip
    bars: dict[str, tqdm] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = tqdm(total=total, desc=what, unit="frame")
        bar = bars[what]
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    result = job.animate(config, progress=show)
    for notice in result.notices:
        print(f"note: {notice}")
    print(f"avatar, zero pose   {result.avatar}")
    print(f"avatar, as pictured {result.posed}")
    print(f"rig                 {result.rig}")
    print(f"fitted body         {result.person}")
    print(f"what the model saw  {result.source}")
    print(f"animation           {result.animation}")
    print(f"turntable           {result.turntable}")
