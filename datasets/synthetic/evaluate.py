"""Compares curated samples with the truth of the synthetic clips that they came from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float32, Int64

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.cameras import project
from lhmforge.datasets.errors import CorpusError
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.sample import StoredSample, parse_sample
from lhmforge.datasets.shards import ShardEntry, read_sample
from lhmforge.datasets.synthetic.image_errors import MatteErrors, correct_keypoints, cut_out, matte_errors
from lhmforge.datasets.synthetic.pose_errors import NUM_BODY_JOINTS, PoseErrors, pose_errors
from lhmforge.datasets.synthetic.truth import ClipTruth, PersonTruth

_WINDOW = ("window_x0_px", "window_y0_px", "window_x1_px", "window_y1_px")
_MATCH_IOU = 0.3  # a sample whose matte overlaps nobody more than this shows no true person


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEvaluation:
    """One curated sample against one true person; errors as in `PoseErrors`, `MatteErrors` and PCK."""

    key: str
    source_id: str
    person: int  # index of the true person
    frame_indices: Int64[np.ndarray, " N"]
    pose: PoseErrors
    reprojection_px: Float32[np.ndarray, " N"]  # fitted joints against true joints, visible ones
    reprojection_share: Float32[np.ndarray, " N"]  # of the person's height
    mattes: tuple[MatteErrors, ...]
    keypoints: dict[str, float]
    switches: int  # how often the true person below the matte changes from frame to frame

    @property
    def mpjpe_mm(self) -> float:
        return float(self.pose.mpjpe_mm.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingCounts:
    """How the true persons came through curation; tracks here are accepted samples."""

    num_persons: int
    num_found: int  # with at least one sample
    num_samples: int
    num_false: int  # samples that show none of the true persons
    num_switches: int
    num_fragments: int  # samples beyond the first, per person and overlapping nobody else
    frame_recall: float  # share of all true person-frames that lie in a matching sample
    rejects: dict[str, int]  # reason -> count, over the sources that have truth


@dataclass(frozen=True, slots=True, kw_only=True)
class CurationEvaluation:
    """All samples and the counts; `summary()` gives the numbers of the table."""

    samples: tuple[SampleEvaluation, ...]
    tracking: TrackingCounts

    def summary(self) -> dict[str, float]:
        """Means over all frames of all matched samples; NaN where nothing could be measured."""
        if not self.samples:
            return {}
        joined: dict[str, np.ndarray] = {}
        for field in fields(PoseErrors):
            joined[field.name] = np.concatenate([np.atleast_1d(getattr(s.pose, field.name)) for s in self.samples])
        joined["reprojection_px"] = np.concatenate([s.reprojection_px for s in self.samples])
        joined["reprojection_percent"] = 100 * np.concatenate([s.reprojection_share for s in self.samples])
        for field in fields(MatteErrors):
            joined[f"matte_{field.name}"] = np.array([getattr(m, field.name) for s in self.samples for m in s.mattes])
        result = {name: float(np.nanmean(values)) for name, values in joined.items() if np.isfinite(values).any()}
        result["flipped_percent"] = 100 * float((joined["orientation_deg"] > 90).mean())
        names = sorted({name for s in self.samples for name in s.keypoints})
        for name in names:
            weights = [len(s.frame_indices) for s in self.samples if name in s.keypoints]
            values = [s.keypoints[name] for s in self.samples if name in s.keypoints]
            result[f"pck_{name}"] = float(np.average(values, weights=weights))
        return result


def evaluate_curation(manifest: Manifest, truths: Mapping[str, ClipTruth], body: BodyModel) -> CurationEvaluation:
    """Evaluates all accepted samples whose source has truth.

    Raises `CorpusError` when no source of the manifest has truth or the bodies differ, `ShardError` for altered shards.
    """
    known = set(truths) & set(manifest.frame["source_id"])
    if not known:
        raise CorpusError(
            f"none of the {manifest.frame['source_id'].nunique()} sources of {manifest.path} has truth "
            f"(for example {next(iter(truths))!r}); curate the corpus.csv that lies beside the truth"
        )
    evaluations, num_false = [], 0
    for sample in iter_curated(manifest, known):
        truth = truths[_lineage(sample)["source_id"]]
        if {truth.body_digest, _lineage(sample)["body_digest"]} != {body.digest}:
            raise CorpusError(f"sample {sample.key} and its truth belong to other body files than {body.source}")
        evaluation = evaluate_sample(sample, truth, body)
        num_false += evaluation is None
        if evaluation is not None:
            evaluations.append(evaluation)
    chosen = {name: truths[name] for name in sorted(known)}
    return CurationEvaluation(samples=tuple(evaluations), tracking=_tracking(manifest, chosen, evaluations, num_false))


def iter_curated(manifest: Manifest, source_ids: set[str]) -> Iterator[StoredSample]:
    """The accepted samples of some sources."""
    rows = manifest.accepted()
    for row in rows[rows["source_id"].isin(source_ids)].itertuples():
        entry = ShardEntry(
            key=str(row.key), offset=int(row.offset), num_bytes=int(row.num_bytes), sha256=str(row.sha256)
        )
        yield parse_sample(read_sample(manifest.shard_uri(str(row.shard)), entry))


def evaluate_sample(sample: StoredSample, truth: ClipTruth, body: BodyModel) -> SampleEvaluation | None:
    """One sample against the person its mattes show; None when they show nobody."""
    frames = frame_indices(sample)
    mattes = [
        [matte_errors(sample.alpha(n), _true_alpha(sample, n, person, int(frame))) for n, frame in enumerate(frames)]
        for person in truth.persons
    ]
    overlap = np.array([[m.iou for m in row] for row in mattes])
    person = int(overlap.mean(1).argmax())
    if overlap[person].mean() < _MATCH_IOU:
        return None
    shown = overlap.argmax(0)
    true_person = truth.persons[person]
    true_points = _true_points(sample, true_person, frames)
    visible = true_person.visible[frames]
    heights = _heights(true_points)
    reprojection = _reprojection(sample, true_points, visible, body)
    return SampleEvaluation(
        key=sample.key,
        source_id=_lineage(sample)["source_id"],
        person=person,
        frame_indices=frames,
        pose=pose_errors(
            body, sample.body, true_person.body.select(frames), frames, sample.world_to_camera.astype(np.float64)
        ),
        reprojection_px=reprojection,
        reprojection_share=reprojection / heights,
        mattes=tuple(mattes[person]),
        keypoints=correct_keypoints(sample.points_px, sample.point_scores, true_points, visible, heights),
        switches=int((np.diff(shown) != 0).sum()),
    )


def frame_indices(sample: StoredSample) -> Int64[np.ndarray, " N"]:
    """Which frames of the clip a sample holds."""
    indices = sample.meta["frame_indices"]
    assert isinstance(indices, Sequence)
    return np.array(indices, np.int64)


def window(sample: StoredSample, index: int) -> tuple[float, float, float, float]:
    """Where in the source frame the stored frame `index` lies; raises `CorpusError` for samples without it."""
    values = sample.meta["frame_values"]
    edges: list[float] = []
    for name in _WINDOW:
        column = values.get(name) if isinstance(values, Mapping) else None
        edge = column[index] if isinstance(column, Sequence) else None
        if not isinstance(edge, int | float):
            raise CorpusError(f"sample {sample.key} does not say where it was cut out; curate the clips again")
        edges.append(float(edge))
    return edges[0], edges[1], edges[2], edges[3]


def _lineage(sample: StoredSample) -> dict[str, str]:
    lineage = sample.meta["lineage"]
    assert isinstance(lineage, Mapping)
    return {name: str(value) for name, value in lineage.items()}


def _true_alpha(sample: StoredSample, index: int, person: PersonTruth, frame: int) -> np.ndarray:
    height, width = sample.alpha(index).shape
    return cut_out(person.alpha(int(frame)), window(sample, index), width, height)


def _true_points(
    sample: StoredSample, person: PersonTruth, frames: Int64[np.ndarray, " N"]
) -> Float32[np.ndarray, "N 133 2"]:
    points = person.points_px[frames].copy()
    for n in range(len(frames)):
        x0, y0, x1, y1 = window(sample, n)
        height, width = sample.alpha(n).shape
        points[n] = (points[n] - (x0, y0)) * (width / (x1 - x0), height / (y1 - y0))
    return points


def _heights(points_px: Float32[np.ndarray, "N 133 2"]) -> Float32[np.ndarray, " N"]:
    """Height of the box of the true body and foot points."""
    heights: np.ndarray = np.ptp(points_px[:, :23, 1], axis=1)
    return np.maximum(heights, 1.0).astype(np.float32)


def _reprojection(
    sample: StoredSample, true_points: np.ndarray, visible: np.ndarray, body: BodyModel
) -> Float32[np.ndarray, " N"]:
    """Mean distance of fitted and true joints in the picture, over visible COCO joints."""
    coco = np.array([16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8])  # shoulders .. ankles, as in COCO's points 5..16
    joints = body.pose(sample.body).joints.numpy()[:, :NUM_BODY_JOINTS].astype(np.float64)
    result = np.full(len(joints), np.nan, np.float32)
    for n, points in enumerate(joints[:, coco]):
        camera = sample.world_to_camera[n].astype(np.float64)
        seen = points @ camera[:3, :3].T + camera[:3, 3]
        pixels = project(seen, sample.intrinsics[n].astype(np.float64))
        use = visible[n, 5:17]
        if use.any():
            result[n] = np.linalg.norm(pixels - true_points[n, 5:17], axis=-1)[use].mean()
    return result


def _tracking(
    manifest: Manifest, truths: Mapping[str, ClipTruth], evaluations: list[SampleEvaluation], num_false: int
) -> TrackingCounts:
    frames_of: defaultdict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    for evaluation in evaluations:
        frames_of[evaluation.source_id, evaluation.person].append(evaluation.frame_indices)
    covered = sum(len(np.unique(np.concatenate(parts))) for parts in frames_of.values())
    total = sum(truth.num_frames * len(truth.persons) for truth in truths.values())
    rejected = manifest.rejected()
    reasons = Counter(rejected[rejected["source_id"].isin(set(truths))]["reason"].tolist())
    return TrackingCounts(
        num_persons=sum(len(truth.persons) for truth in truths.values()),
        num_found=len(frames_of),
        num_samples=len(evaluations) + num_false,
        num_false=num_false,
        num_switches=sum(e.switches for e in evaluations),
        num_fragments=sum(len(parts) - 1 for parts in frames_of.values()),
        frame_recall=covered / total,
        rejects=dict(sorted(reasons.items())),
    )
