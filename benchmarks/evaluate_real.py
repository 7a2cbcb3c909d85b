"""Curated real clips, of which no truth is known: `python -m benchmarks.evaluate_real RUN [--four-views VIDEOS]`.

RUN is an output folder of `lhmforge curate`. One row per track: what became of it, how much of its clip reached a
shard, reprojection error, how well matte and body agree, acceleration. With the folder of the calibrated clips (see
`benchmarks/fit_four_views.py`) and the stage cache, the fits of the four views are compared with points that are
triangulated from the curated keypoints of all views.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.fit_four_views import ViewErrors, compare, read_calibration, triangulate
from lhmforge.datasets.body.resolve import body_path
from lhmforge.datasets.errors import CorpusError
from lhmforge.datasets.manifest import ACCEPTED
from lhmforge.datasets.records import FittedTrack
from lhmforge.jobs.curation_evaluation import CuratedRun
from lhmforge.pipelines.fitting.track_fit import FittingBody
from lhmforge.pipelines.ledger import Ledger

_FOUR_VIEWS = tuple(f"four_views_cam{number:02d}" for number in range(1, 5))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRow:
    """A track of a real clip; NaN where it ended before the gate measured it."""

    source_id: str
    track: str
    ended: str  # "accepted" or stage: reason
    num_tracked: int  # frames with a box
    num_kept: int  # frames in a shard
    reprojection_percent: float  # median over frames, of the box height
    matte_iou: float  # median, matte against the body's silhouette
    acceleration_mm: float  # median of the joints, mm per (1/30 s)^2
    coverage_percent: float  # body joints seen
    view_deg: float  # 0: facing the camera


def track_rows(run: CuratedRun) -> list[TrackRow]:
    """One row per followed person, by source and key."""
    rows = []
    for source_id, paths in sorted(run.paths.items()):
        of_source = run.manifest.frame[run.manifest.frame["source_id"] == source_id]
        for path in paths:
            ended = of_source[of_source["key"].str.startswith(path.key)]
            assert len(ended), f"track {path.key} is in no row of the manifest"
            rows.append(_row(source_id, path.key, len(path.frame_indices), ended))
    return rows


def _row(source_id: str, key: str, num_tracked: int, ended: pd.DataFrame) -> TrackRow:
    first = ended.iloc[0]
    accepted = ended[ended["status"] == ACCEPTED]
    return TrackRow(
        source_id=source_id,
        track=key.split("_", 1)[1],
        ended=ACCEPTED if len(accepted) else f"{first['stage']}: {first['reason']}",
        num_tracked=num_tracked,
        num_kept=int(accepted["num_frames"].sum()),
        reprojection_percent=100 * float(first["score_reprojection"]),
        matte_iou=float(first["score_matte_iou"]),
        acceleration_mm=1000 * float(first["score_jitter"]),
        coverage_percent=100 * float(first["score_coverage"]),
        view_deg=math.degrees(float(first["score_view_rad"])),
    )


def four_views(run: CuratedRun, videos: Path) -> list[ViewErrors]:
    """Errors of the tallest person's fit in each view; raises `CorpusError` without the four clips or the cache."""
    names = {Path(source_id).stem: source_id for source_id in run.manifest.frame["source_id"]}
    if not set(_FOUR_VIEWS) <= set(names):
        raise CorpusError(f"{run.root} holds no {', '.join(sorted(set(_FOUR_VIEWS) - set(names)))}")
    fits = run.fits([names[name] for name in _FOUR_VIEWS])
    if fits is None:
        raise CorpusError(f"{run.root} has no stage cache of this version; curate again")
    chosen = [max(fits[names[name]], key=_height) for name in _FOUR_VIEWS]
    cameras = read_calibration(videos / "four_views_calibration.qca.txt")
    truth = triangulate([fitted.keypointed for fitted in chosen], cameras)
    body = FittingBody.load(body_path(run.config.fit.body or None))
    settings = run.config.fit.settings
    return [
        compare(fitted.keypointed, camera, truth, body, settings)
        for fitted, camera in zip(chosen, cameras, strict=True)
    ]


def _height(fitted: FittedTrack) -> float:
    return float(np.ptp(fitted.track.boxes_px[:, 1::2], axis=1).mean())


def _tables(rows: Sequence[TrackRow], run: CuratedRun, views: Sequence[ViewErrors]) -> list[Table]:
    table = Table(
        "clip", "track", "frames kept", "reprojection %", "matte/body IoU", "accel. mm", "seen %", "view", "ended",
        title=f"{len(rows)} tracks",
    )  # fmt: skip
    for row in rows:
        numbers = (row.reprojection_percent, row.matte_iou, row.acceleration_mm, row.coverage_percent, row.view_deg)
        texts = ["-" if math.isnan(v) else f"{v:.{d}f}" for v, d in zip(numbers, (2, 2, 1, 0, 0), strict=True)]
        kept = f"{row.num_kept} of {row.num_tracked}"
        table.add_row(row.source_id, row.track, kept, *texts, row.ended)
    kept_rows = [row for row in rows if row.ended == ACCEPTED]
    if kept_rows:
        medians = [
            f"{np.median([getattr(row, name) for row in kept_rows]):.{digits}f}"
            for name, digits in (("reprojection_percent", 2), ("matte_iou", 2), ("acceleration_mm", 1))
        ]
        kept = f"{sum(row.num_kept for row in rows)} of {sum(row.num_tracked for row in rows)}"
        table.add_section()
        table.add_row("median of the accepted", f"{len(kept_rows)}", kept, *medians, "", "", "")
    tables = [table, _clips(run)]
    if views:
        view_table = Table(
            "view", "PA-MPJPE mm", "MPJPE mm", "focal px", title="fits of one view against triangulation"
        )
        for number, view in enumerate(views, 1):
            view_table.add_row(f"cam{number:02d}", f"{view.pa_mm:.0f}", f"{view.mpjpe_mm:.0f}", f"{view.focal_px:.0f}")
        view_table.add_row(
            "median", *(f"{np.median([getattr(v, n) for v in views]):.0f}" for n in ("pa_mm", "mpjpe_mm"))
        )
        tables.append(view_table)
    return tables


def _clips(run: CuratedRun) -> Table:
    """What ended before anybody was followed, and clips as a whole."""
    table = Table("clip", "frames looked at", "tracks", "samples", "ended before tracking", title="clips")
    rows = run.manifest.frame
    for name in Ledger(run.root).unit_names():
        record = Ledger(run.root).read_record(name)
        for video in record.videos if record is not None else ():
            of_source = rows[rows["source_id"] == video.source_id]
            paths = run.paths.get(video.source_id, ())
            keys = {path.key for path in paths}
            early = [
                f"{r.stage}: {r.reason}" for r in of_source.itertuples() if r.status != ACCEPTED and r.key not in keys
            ]
            fps = video.num_frames / video.duration_s if video.duration_s else 0.0
            looked_at = len(run.config.track.sampled_frames(0, video.num_frames, fps)) if fps else 0
            table.add_row(
                video.source_id, str(looked_at), str(len(paths)), str(video.num_accepted), ", ".join(early) or "-"
            )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--four-views", type=Path, help="folder of the calibrated clips")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args()
    run = CuratedRun.open(arguments.run)
    rows = track_rows(run)
    views = four_views(run, arguments.four_views) if arguments.four_views else []
    console = Console(width=120)
    for table in _tables(rows, run, views):
        console.print(table)
    if arguments.json:
        content = {
            "tracks": [{k: None if v != v else v for k, v in asdict(row).items()} for row in rows],
            "views": [{"pa_mm": view.pa_mm, "mpjpe_mm": view.mpjpe_mm} for view in views],
        }
        arguments.json.write_text(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
