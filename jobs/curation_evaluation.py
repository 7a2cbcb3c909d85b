"""Curated output against truth as a whole: shards, tracking, and what became of every true person in every frame.

A gate that turns bad fits away makes the errors in the shards small; here the fits that it turned away are measured as
well, from the stage cache of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.codecs import JsonValue
from lhmforge.datasets.config_json import from_json
from lhmforge.datasets.errors import CorpusError
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.records import FittedTrack, SourceVideo, TrackPath
from lhmforge.datasets.synthetic.evaluate import CurationEvaluation, evaluate_curation
from lhmforge.datasets.synthetic.evaluate_fits import FitEvaluation, evaluate_fit
from lhmforge.datasets.synthetic.truth import ClipTruth
from lhmforge.datasets.track_paths import read_paths
from lhmforge.jobs.curate import CONFIG_NAME, CurateConfig
from lhmforge.jobs.recipes import read_json
from lhmforge.jobs.uncertainty import UncertaintyCalibration, calibrate_uncertainty
from lhmforge.pipelines.chain import chain_fingerprints
from lhmforge.pipelines.curation import MANIFEST_NAME
from lhmforge.pipelines.ledger import Ledger
from lhmforge.pipelines.qa.tracking_scores import (
    TrackedClip,
    TrackingScores,
    followed_person,
    person_frames,
    score_tracking,
)
from lhmforge.pipelines.record_codec import decode_records

IN_SHARD, DROPPED, LOST, HIDDEN = "in a shard", "frame dropped by the gate", "no track", "mostly hidden, no track"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """Where some of the true person-frames ended; errors are means over those that were fitted, NaN for none."""

    name: str
    num_person_frames: int
    num_fitted: int
    share: float
    pa_mpjpe_mm: float
    mpjpe_mm: float
    matte_iou: float
    bad_share: float  # of the fitted ones, by `FitEvaluation.bad_frames`


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvaluation:
    """Everything about a curation run of synthetic clips; `fates` add up to all true person-frames looked at."""

    shards: CurationEvaluation
    tracking: TrackingScores
    fates: tuple[Fate, ...]
    fits: tuple[FitEvaluation, ...]  # of all fitted tracks; empty when the stage cache is gone
    uncertainty: UncertaintyCalibration | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CuratedRun:
    """A finished run: its configuration, manifest and tracks."""

    root: str
    config: CurateConfig
    inputs: tuple[str, ...]
    manifest: Manifest
    paths: Mapping[str, tuple[TrackPath, ...]]

    @classmethod
    def open(cls, root: Path) -> CuratedRun:
        """Raises `CorpusError` for another folder, `ShardError` for an altered run."""
        place = root / CONFIG_NAME
        if not place.is_file():
            raise CorpusError(f"{root} is no output folder of `lhmforge curate`: it has no {CONFIG_NAME}")
        content = read_json(place)
        assert isinstance(content, dict), f"{place} holds no object"
        inputs = content["inputs"]
        assert isinstance(inputs, list)
        return cls(
            root=str(root),
            config=from_json(CurateConfig, content["config"], where=str(place)),
            inputs=tuple(str(item) for item in inputs),
            manifest=Manifest.load(root / MANIFEST_NAME),
            paths=read_paths(str(root), Ledger(root).unit_names()),
        )

    def truth_folder(self) -> Path:
        """Where `lhmforge synthesize` wrote the clips that were curated; raises `CorpusError` when that is unknown."""
        for place in self.inputs:
            folder = Path(place) if Path(place).is_dir() else Path(place).parent
            for candidate in (folder, folder.parent):
                if (candidate / "truth").is_dir() and (candidate / "records").is_dir():
                    return candidate
        raise CorpusError(
            f"the inputs of {self.root} ({', '.join(self.inputs)}) have no truth beside them; give --truth FOLDER"
        )

    def fits(self, source_ids: Sequence[str]) -> dict[str, tuple[FittedTrack, ...]] | None:
        """Source id -> all fitted tracks, from the stage cache; None when entries are missing (cleared, other code)."""
        stages = self.config.stages
        names = [stage.name for stage in stages]
        fingerprint = chain_fingerprints(stages)[names.index("fit")]
        rows = self.manifest.frame.drop_duplicates("source_id").set_index("source_id")
        found = {}
        for source_id in source_ids:
            row = rows.loc[source_id]
            data = Ledger(self.root).get("fit", fingerprint, str(row["video_digest"]))
            if data is None:
                return None
            source = SourceVideo(
                uri=str(row["uri"]),
                source_id=source_id,
                channel=str(row["channel"]),
                licence=str(row["licence"]),
                identity=str(row["identity"]),
            )
            found[source_id] = tuple(decode_records(data, source=source)[0])
        return found


def evaluate_run(run: CuratedRun, truths: Mapping[str, ClipTruth], body: BodyModel) -> RunEvaluation:
    """Evaluates a run; raises `CorpusError` when nothing of it has truth or the bodies differ."""
    shards = evaluate_curation(run.manifest, truths, body)
    known = sorted(set(truths) & set(run.manifest.frame["source_id"]))
    clips = [tracked_clip(run, source_id, truths[source_id]) for source_id in known]
    fitted = run.fits(known) or {}
    fits = tuple(
        evaluate_fit(track, truths[source_id], person, body)
        for source_id, tracks in fitted.items()
        for track in tracks
        if (person := followed_person(track.track.path, truths[source_id])) is not None
    )
    return RunEvaluation(
        shards=shards,
        tracking=score_tracking(clips),
        fates=_fates(run, clips, fits, shards),
        fits=fits,
        uncertainty=calibrate_uncertainty(fits) if fits else None,
    )


def json_sections(evaluation: RunEvaluation) -> dict[str, JsonValue]:
    """The parts of a run's evaluation that samples alone do not tell."""
    return {
        "tracking": _plain(evaluation.tracking),
        "fates": [_plain(fate) for fate in evaluation.fates],
        "uncertainty": None if evaluation.uncertainty is None else _plain(evaluation.uncertainty),
    }


def tracked_clip(run: CuratedRun, source_id: str, truth: ClipTruth) -> TrackedClip:
    """The tracks of one source, and the frames that were looked at: each clip's, and those between the clips."""
    paths = run.paths.get(source_id, ())
    track = run.config.track
    every = track.sampled_frames(0, truth.num_frames, truth.fps)
    looked_at = [frame for path in paths for frame in path.frame_indices.tolist()]
    spans = {_span(path.key) for path in paths}
    for first, end in sorted(spans):
        every = every[(every < first) | (every >= end)]
        every = np.concatenate([every, track.sampled_frames(first, end, truth.fps)])
    frames = np.unique(np.concatenate([every, np.array(looked_at, np.int64)]))
    return TrackedClip(source_id=source_id, truth=truth, paths=paths, frames=frames)


def _plain(record: TrackingScores | Fate | UncertaintyCalibration) -> dict[str, JsonValue]:
    """A flat record as JSON; what could not be measured is null."""
    return {name: None if value != value else value for name, value in asdict(record).items()}


def _span(track_key: str) -> tuple[int, int]:
    """First and end frame of the clip that a track belongs to, as its key says."""
    _, first, end, _ = track_key.split("_")
    return int(first), int(end)


def _fates(
    run: CuratedRun, clips: Sequence[TrackedClip], fits: Sequence[FitEvaluation], shards: CurationEvaluation
) -> tuple[Fate, ...]:
    reasons = {str(row.key): f"{row.stage}: {row.reason}" for row in run.manifest.rejected().itertuples(index=False)}
    kept: dict[str, set[int]] = {}
    for sample in shards.samples:
        kept.setdefault(sample.key.rsplit("_", 1)[0], set()).update(sample.frame_indices.tolist())
    errors = {
        (fit.key, int(frame)): (fit.pa_mpjpe_mm[n], fit.mpjpe_mm[n], fit.matte_iou[n], float(fit.bad_frames[n]))
        for fit in fits
        for n, frame in enumerate(fit.frame_indices)
    }
    groups: dict[str, list[tuple[float, ...] | None]] = {}
    for clip in clips:
        for item in person_frames(clip):
            name = reasons.get(item.track_key, DROPPED) if item.track_key else LOST if item.is_required else HIDDEN
            if item.frame in kept.get(item.track_key, ()):
                name = IN_SHARD
            groups.setdefault(name, []).append(errors.get((item.track_key, item.frame)))
    total = sum(len(group) for group in groups.values())
    return tuple(_fate(name, group, total) for name, group in sorted(groups.items(), key=lambda pair: -len(pair[1])))


def _fate(name: str, group: Sequence[tuple[float, ...] | None], total: int) -> Fate:
    fitted = [errors for errors in group if errors is not None]
    pa, mpjpe, matte, bad = np.mean(fitted, axis=0).tolist() if fitted else [float("nan")] * 4
    return Fate(
        name=name,
        num_person_frames=len(group),
        num_fitted=len(fitted),
        share=len(group) / total,
        pa_mpjpe_mm=pa,
        mpjpe_mm=mpjpe,
        matte_iou=matte,
        bad_share=bad,
    )
