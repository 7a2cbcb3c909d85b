"""`lhmforge demo`: from videos to a scaling report on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[Path, typer.Option(help="folder of everything the demo makes")] = Path("demo_output"),
    workers: Annotated[int, typer.Option(help="Ray workers of curation and training")] = 2,
) -> None:
    """Curate a small corpus, train LHM tiny, run a scaling study and animate an avatar; a second run resumes."""
    from lhmforge.jobs.cli import run_command
    from lhmforge.jobs.demo import DemoConfig, run_demo

    output.mkdir(parents=True, exist_ok=True)
    result = run_demo(
        DemoConfig(output=output.resolve(), workers=workers), run_command, lambda line: print(line, flush=True)
    )
    print(f"\nthe demo took {sum(result.seconds.values()):.0f} s; look at:")
    width = max(len(name) for name, _ in result.places)
    for name, path in result.places:
        print(f"  {name:<{width}}  {path}")
