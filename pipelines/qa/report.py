"""Writes the QA report of a curation run: static pages and pictures, opened from the folder, no server."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from tqdm import tqdm

from lhmforge.datasets import storage
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.codecs import JsonValue, encode_json
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.keyed import keyed_order
from lhmforge.datasets.manifest import SCORE_NAMES, Manifest
from lhmforge.pipelines.qa.mesh_overlay import BodyPainter
from lhmforge.pipelines.qa.pictures import SamplePictures, write_contact_sheet, write_pictures
from lhmforge.pipelines.qa.rejected import write_rejected_pictures
from lhmforge.pipelines.qa.run_data import RunData, read_run
from lhmforge.pipelines.qa.summary import SCORE_TEXTS, coverages, num_frames, score_histograms, stage_seconds
from lhmforge.pipelines.qa.tiles import TILE
from lhmforge.pipelines.wholebody import LIMBS

_log = logging.getLogger(__name__)
_TEXT_COLUMNS = (
    "key", "status", "stage", "reason", "detail", "source_id", "channel", "licence", "identity",
    "identity_cluster", "duplicate_group",
)  # fmt: skip
_NUMBER_COLUMNS = ("first_frame", "end_frame", "person", "num_frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """How much of a run is shown in pictures; numbers are always shown for all of it.

    `body_file` is the body that the run was fitted with; without it, or for samples of another body, the body layer
    is left out and the page says so. `fit_fingerprint` finds the fits of turned-down tracks in the stage cache; without
    it they are shown with their boxes alone.
    """

    body_file: Path | None = None
    fit_fingerprint: str = ""
    frames_per_sample: int = 16
    max_samples_with_pictures: int = 1000
    max_rejected_with_pictures: int = 300
    max_contact_samples: int = 60
    samples_per_sheet: int = 6

    def __post_init__(self) -> None:
        if self.frames_per_sample < 1 or self.samples_per_sheet < 1:
            raise ConfigError("report: frames_per_sample and samples_per_sheet must be at least 1")
        if min(self.max_samples_with_pictures, self.max_rejected_with_pictures, self.max_contact_samples) < 0:
            raise ConfigError("report: the largest numbers of samples with pictures and on contact sheets start at 0")


def write_report(output_dir: str | Path, config: ReportConfig | None = None) -> Path:
    """Writes `report/index.html` and what it needs into a run's folder and returns its path.

    Reads the manifest, the shards and the unit records only; pictures of an earlier report are kept where they still
    fit. Raises `ShardError` for a missing or altered manifest or shard, `BodyError` for a bad body file.
    """
    config = config or ReportConfig()
    run = read_run(output_dir)
    report = storage.join_uri(output_dir, "report")
    painter = BodyPainter(BodyModel.load(config.body_file)) if config.body_file is not None else None
    pictures = _write_all_pictures(report, run.manifest, config, painter)
    turned_down = write_rejected_pictures(
        report,
        str(output_dir),
        run.manifest.rejected(),
        limit=config.max_rejected_with_pictures,
        num_tiles=config.frames_per_sample,
        fit_fingerprint=config.fit_fingerprint,
        painter=painter,
    )
    sheets = _write_sheets(report, run.manifest, config, painter)
    data = encode_json(_page_data(run.manifest, pictures, turned_down)).decode().strip()
    storage.publish(storage.join_uri(report, "data.js"), (f"const REPORT = {data};\n".encode(),))
    for name in ("report.css", "report.js"):
        storage.publish(storage.join_uri(report, name), (_own_file(name).encode(),))
    page = _render(run, pictures, turned_down, sheets, config)
    index = storage.join_uri(report, "index.html")
    storage.publish(index, (page.encode(),))
    _log.info("report: %s", index)
    return Path(index)


def _write_all_pictures(
    report: str, manifest: Manifest, config: ReportConfig, painter: BodyPainter | None
) -> dict[str, SamplePictures]:
    rows = manifest.accepted()
    linked = (rows["identity_cluster"] != "") | (rows["duplicate_group"] != "")  # there is something to judge
    ordered = [*keyed_order("report", rows["key"][linked]), *keyed_order("report", rows["key"][~linked])]
    chosen = set(ordered[: config.max_samples_with_pictures])
    shown = rows[rows["key"].isin(chosen)]
    return {
        row["key"]: write_pictures(report, manifest, row, num_tiles=config.frames_per_sample, painter=painter)
        for _, row in tqdm(shown.iterrows(), total=len(shown), desc="report pictures", unit="sample")
    }


def _write_sheets(report: str, manifest: Manifest, config: ReportConfig, painter: BodyPainter | None) -> list[str]:
    """Sheets of evenly chosen samples; a sheet's name follows from its samples, so that unchanged ones are kept."""
    rows = manifest.accepted()
    places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), config.max_contact_samples)).round().astype(int))
    names: list[str] = []
    for start in range(0, len(places), config.samples_per_sheet):
        part = rows.iloc[places[start : start + config.samples_per_sheet]]
        body = painter.body_digest if painter is not None else ""
        mark = hashlib.sha256("\n".join([body, *part["sha256"]]).encode()).hexdigest()[:10]
        names.append(f"contact/sheet-{len(names):03d}-{mark}.jpg")
        write_contact_sheet(report, names[-1], manifest, part, painter=painter)
    return names


def _page_data(
    manifest: Manifest, pictures: dict[str, SamplePictures], turned_down: dict[str, SamplePictures]
) -> dict[str, JsonValue]:
    """Columns, not rows, and each distinct text once: ten thousand tracks stay within a few MB."""
    frame = manifest.frame
    accepted = frame["status"] == "accepted"
    here = [(pictures if keep else turned_down).get(key) for key, keep in zip(frame["key"], accepted, strict=True)]
    return {
        "texts": {name: _coded(frame[name]) for name in _TEXT_COLUMNS},
        "numbers": {name: frame[name].tolist() for name in _NUMBER_COLUMNS},
        "scores": {name: [_short(value) for value in frame[f"score_{name}"]] for name in SCORE_NAMES},
        "scoreTexts": dict(SCORE_TEXTS),
        "stems": [picture.stem if picture else "" for picture in here],
        "tiles": [picture.num_tiles if picture else 0 for picture in here],
        "mattes": [int(picture.has_matte) if picture else 0 for picture in here],
        "bodies": [int(picture.has_body) if picture else 0 for picture in here],
        "tileSize": list(TILE),
        "limbs": [list(limb) for limb in LIMBS],
    }


def _coded(column: pd.Series) -> dict[str, JsonValue]:
    codes, words = pd.factorize(column, sort=True)
    return {"words": [str(word) for word in words], "codes": codes.tolist()}


def _short(value: float) -> float | None:
    return None if pd.isna(value) else float(f"{value:.4g}")


def _own_file(name: str) -> str:
    return resources.files("lhmforge.pipelines.qa").joinpath(name).read_text(encoding="utf-8")


def _render(
    run: RunData,
    pictures: dict[str, SamplePictures],
    turned_down: dict[str, SamplePictures],
    sheets: list[str],
    config: ReportConfig,
) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    manifest = run.manifest
    accepted = manifest.accepted()
    return environment.from_string(_own_file("report.html")).render(
        run=run,
        digest=manifest.digest,
        num_accepted=len(accepted),
        num_rejected=len(manifest.rejected()),
        num_frames=num_frames(accepted),
        num_identities=accepted["identity"][accepted["identity"] != ""].nunique(),
        num_sources=accepted["source_id"].nunique(),
        num_quarantined=int((manifest.frame["status"] == "quarantined").sum()),
        costs=stage_seconds(manifest),
        histograms=score_histograms(manifest),
        coverages=coverages(manifest),
        sheets=sheets,
        num_with_pictures=len(pictures),
        num_turned_down_with_pictures=len(turned_down),
        num_clusters=accepted["identity_cluster"][accepted["identity_cluster"] != ""].nunique(),
        num_duplicate_groups=int(manifest.frame["duplicate_group"][manifest.frame["duplicate_group"] != ""].nunique()),
        num_with_body=sum(picture.has_body for picture in pictures.values()),
        config=config,
    )
