"""`lhmforge curate` and `lhmforge fsck`: from videos to verified shards, and the check of what lies there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lhmforge.jobs.curate import CurateConfig
    from lhmforge.pipelines.curation import CurationPlan, CurationSummary

_MAX_VIDEO_LINES = 40


def curate(
    inputs: Annotated[
        list[str], typer.Option("--input", help="folder, video, or Parquet/CSV manifest; may be repeated")
    ],
    output: Annotated[str, typer.Option(help="folder or URI of the run; an earlier run there is gone on with")],
    recipe: Annotated[str, typer.Option(help="named configuration: default, demo or fake")] = "default",
    config: Annotated[Path | None, typer.Option(help="JSON file with what differs from the recipe")] = None,
    workers: Annotated[int, typer.Option(help="0: this process, 1: a child process, more: Ray")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be done, and what is done")] = False,
) -> None:
    """Turn videos into shards of tracked, matted and fitted people."""
    from lhmforge.jobs import curate as job

    settings = job.curate_recipe(recipe)
    if config is not None:
        settings = job.load_curate_config(config, settings)
    if dry_run:
        _print_plan(job.plan(settings, inputs, output), settings)
        return
    _print_summary(job.run_curation(settings, inputs, output, workers))


def fsck(
    directory: Annotated[str, typer.Argument(help="output folder or URI of a curation run")],
    repair: Annotated[bool, typer.Option("--repair", help="remove what is wrong; the next run does it again")] = False,
) -> None:
    """Find torn, orphaned, duplicate, missing and altered shards; exit 1 when there are any."""
    from lhmforge.datasets.errors import ForgeError
    from lhmforge.datasets.storage import exists
    from lhmforge.pipelines.fsck import check_folder, repair_folder

    if not exists(directory):
        raise ForgeError(f"{directory} does not exist; give the output folder of a curation run")
    findings = check_folder(directory)
    for finding in findings:
        print(f"{finding.kind:18} {finding.place}: {finding.detail}")
    if not findings:
        print(f"{directory}: every shard is what its completion record says")
        return
    if not repair:
        print(f"{len(findings)} findings; --repair removes them and queues their units again")
        raise typer.Exit(1)
    queued = repair_folder(directory, findings)
    print(f"{len(findings)} findings removed; `lhmforge curate` will redo {len(queued)} units: {', '.join(queued)}")


def _print_plan(plan: CurationPlan, config: CurateConfig) -> None:
    todo = plan.todo
    print(
        f"{plan.num_videos} videos in {len(plan.tasks)} units, {len(plan.done)} units done; config {config.fingerprint}"
    )
    duplicates = sum(bool(item.duplicate_of) for task in plan.tasks for item in task.unit.items)
    missing = sum(item.num_bytes < 0 for task in plan.tasks for item in task.unit.items)
    print(f"{duplicates} exact duplicates, {missing} unreadable")
    for stage in config.stages:
        print(f"  {stage!r}")
    for task in todo[:_MAX_VIDEO_LINES]:
        print(f"to do: {task.unit.name}: {', '.join(item.source.source_id for item in task.unit.items)}")
    if len(todo) > _MAX_VIDEO_LINES:
        print(f"... and {len(todo) - _MAX_VIDEO_LINES} more units")


def _print_summary(summary: CurationSummary) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    videos = Table("video", "frames", "tracks", "accepted", "rejected", "seconds", "state", title="videos")
    for video in summary.videos[:_MAX_VIDEO_LINES]:
        numbers = (video.num_frames, video.num_tracks, video.num_accepted, video.num_rejected)
        videos.add_row(video.source_id, *map(str, numbers), f"{video.seconds:.1f}", video.state)
    stages = Table("stage", "in", "out", "rejected", "seconds", "from cache", title="stages")
    for flow in summary.stages:
        counts = (flow.num_in, flow.num_out, flow.num_rejected)
        stages.add_row(flow.stage, *map(str, counts), f"{flow.seconds:.1f}", f"{flow.cached_seconds:.1f}")
    reasons = Table("rejected at / reason", "count", title="rejects")
    for reason, count in summary.rejected:
        reasons.add_row(reason, str(count))
    for table in (videos, stages, reasons) if summary.rejected else (videos, stages):
        console.print(table)
    rate = f"{summary.num_frames / summary.seconds:.1f} frames/s" if summary.num_frames else "nothing left to do"
    console.print(
        f"{summary.num_videos} videos ({summary.num_quarantined} quarantined), {summary.num_tracks} tracks, "
        f"{summary.num_accepted} samples, {summary.num_duplicate_groups} groups of near-duplicates, "
        f"{summary.num_identity_clusters} identity clusters; "
        f"{summary.num_units_resumed} of {summary.num_units} units were done before; {summary.seconds:.0f} s, {rate}"
    )
    console.print(f"manifest {summary.manifest}\nreport   {summary.root}/report/index.html", soft_wrap=True)
