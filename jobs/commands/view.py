"""`lhmforge view`: an exported avatar in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def view(
    avatar: Annotated[Path, typer.Argument(help="folder that `lhmforge animate` wrote (avatar.ply, rig.npz)")],
    motion: Annotated[
        list[str] | None, typer.Option(help="FILE.npz or MANIFEST.parquet#KEY, as for animate; may be repeated")
    ] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="the next free one is taken when it is busy")] = 8080,
    seconds: Annotated[float | None, typer.Option(help="stop after this long (default: until interrupted)")] = None,
) -> None:
    """Serve a page that poses and orbits an avatar; needs the extra `viewer`."""
    from lhmforge.datasets.body.motion_file import load_motion
    from lhmforge.jobs.viewer import AvatarViewer, ViewerConfig
    from lhmforge.lhm_model.rig import RiggedAvatar

    motions = [load_motion(source) for source in motion or ()]
    viewer = AvatarViewer(RiggedAvatar.load(avatar), motions, ViewerConfig(host=host, port=port))
    print(f"open {viewer.url} (interrupt to end)", flush=True)
    try:
        viewer.run(seconds)
    except KeyboardInterrupt:
        viewer.close()
