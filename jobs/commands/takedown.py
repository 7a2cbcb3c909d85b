"""`lhmforge takedown`: removes what a run made of some sources, for good."""

from __future__ import annotations

from typing import Annotated

import typer


def takedown(
    data: Annotated[str, typer.Option(help="output folder or URI of a curation run")],
    source: Annotated[list[str], typer.Option(help="source id as in the manifest; may be repeated")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be removed, and change nothing")] = False,
) -> None:
    """Remove sources from shards, manifest, face vectors, caches and pictures; later runs leave them out."""
    from lhmforge.jobs.takedown import run_takedown

    plan = run_takedown(data, source, dry_run=dry_run)
    verb = "would be" if dry_run else "were"
    print(f"{len(plan.samples)} samples of {len(plan.sources)} sources {verb} removed")
    for shard in plan.shards:
        print(f"  {verb} rewritten: {shard}")
    if plan.near_duplicates:
        print(f"the same footage is also in {len(plan.near_duplicates)} sources that stay; to remove them as well:")
        for name in plan.near_duplicates:
            print(f"  --source {name}")
    if not dry_run:
        print(f"{data}/takedown.json keeps them out of later runs; copies of this folder are not reached")
