"""Tracks of synthetic clips, as they are and spoiled, with what the gate measures of them and what the truth says."""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from tqdm import tqdm

from lhmforge.datasets import storage
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.codecs import encode_png
from lhmforge.datasets.records import (
    FittedTrack,
    Keypoints,
    KeypointTrack,
    MattedTrack,
    Reject,
    Track,
    TrackScores,
    Video,
)
from lhmforge.datasets.synthetic import corruption
from lhmforge.datasets.synthetic.evaluate_fits import FitEvaluation, evaluate_fit
from lhmforge.datasets.synthetic.truth import ClipTruth
from lhmforge.datasets.threads import single_threaded
from lhmforge.jobs.curate import CurateConfig
from lhmforge.pipelines import wholebody
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.context import UnitContext
from lhmforge.pipelines.fitting.clip_fit import reprojection_px
from lhmforge.pipelines.fitting.landmarks import solver_body
from lhmforge.pipelines.fitting.objective import FitState, Objective
from lhmforge.pipelines.fitting.observe import observe_track
from lhmforge.pipelines.fitting.priors import body_priors
from lhmforge.pipelines.fitting.rotations import exp_rotation
from lhmforge.pipelines.fitting.track_scores import matte_overlaps, score_track
from lhmforge.pipelines.qa.tracking_scores import followed_person
from lhmforge.pipelines.record_codec import decode_records, encode_records
from lhmforge.pipelines.stage import StageContext

CLEAN = "clean"
# Ways to spoil a track; of each group, tracks get one in turn unless all are asked for.
GROUPS = (
    corruption.PIXEL_KINDS,
    ("wrong_matte",),
    ("shaken_pose", "other_fit"),
    ("shaken_keypoints", "mirrored", "switched_person"),
)
KINDS = (CLEAN, *itertools.chain(*GROUPS))
_MIN_HALF = 5  # frames of each of two people in a track that switches
_CACHE_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTrial:
    """One track, spoiled in one way or not at all; `N` frames."""

    kind: str
    source_id: str
    scores: TrackScores
    frame_ok: Bool[np.ndarray, " N"]  # what the gate says of the frames
    reason: str  # why the gate turns the track down; "": it does not
    frame_reprojection: Float64[np.ndarray, " N"]  # as a share of the box height
    frame_matte_iou: Float64[np.ndarray, " N"]
    evaluation: FitEvaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSet:
    """All trials, and how many spoiled tracks never reached the gate, by reason."""

    trials: tuple[GateTrial, ...]
    rejected_before: Mapping[str, int]


def run_trials(
    config: CurateConfig,
    fits: Mapping[str, Sequence[FittedTrack]],
    truths: Mapping[str, ClipTruth],
    body: BodyModel,
    context: StageContext,
    *,
    cache: Path,
    seed: int = 0,
    all_kinds: bool = False,
) -> Iterator[GateTrial | Reject]:
    """Yields a trial per track as it is and per way it is spoiled in, or the reject that came before the gate.

    Mattes and keypoints of spoiled pixels are computed by the run's own stages and kept under `cache`.
    """
    trials = _Trials(config, truths, body, context, cache, seed)
    everybody = [(source_id, track) for source_id, tracks in sorted(fits.items()) for track in tracks]
    for number, (source_id, fitted) in enumerate(everybody):
        person = followed_person(fitted.track.path, truths[source_id])
        if person is None:
            continue
        yield trials.judge(CLEAN, fitted, truths[source_id], person, context)
        others = [track for other, track in everybody if other != source_id]
        partners = [track for other, track in everybody if other == source_id and track.key != fitted.key]
        chosen = itertools.chain(*(group if all_kinds else [group[number % len(group)]] for group in GROUPS))
        for kind in chosen:
            if kind in corruption.PIXEL_KINDS:
                yield from trials.spoil_pixels(kind, fitted, person)
            else:
                yield from trials.spoil_records(kind, fitted, person, others, partners)


def collect_trials(
    config: CurateConfig,
    fits: Mapping[str, Sequence[FittedTrack]],
    truths: Mapping[str, ClipTruth],
    body: BodyModel,
    *,
    cache: Path,
    seed: int = 0,
    all_kinds: bool = False,
) -> TrialSet:
    """All trials of a run, with a bar over its tracks."""
    trials: list[GateTrial] = []
    rejected: Counter[str] = Counter()
    with UnitContext({}) as context, single_threaded():
        found = run_trials(config, fits, truths, body, context, cache=cache, seed=seed, all_kinds=all_kinds)
        for item in tqdm(found, unit="trial", desc="spoil and measure"):
            if isinstance(item, Reject):
                rejected[f"{item.stage}/{item.reason}"] += 1
            else:
                trials.append(item)
    return TrialSet(trials=tuple(trials), rejected_before=dict(sorted(rejected.items())))


@dataclass(slots=True)
class _Trials:
    config: CurateConfig
    truths: Mapping[str, ClipTruth]
    body: BodyModel
    context: StageContext
    cache: Path
    seed: int

    def judge(self, kind: str, fitted: FittedTrack, truth: ClipTruth, person: int, context: StageContext) -> GateTrial:
        """Scores a track as the gate does, and measures it."""
        gate = self.config.gate
        scores = score_track(
            fitted, self.body, context, mask_frames=gate.mask_frames, sharpness_frames=gate.sharpness_frames
        )
        boxes = fitted.track.boxes_px
        heights = np.maximum(boxes[:, 3] - boxes[:, 1], 1.0).astype(np.float64)
        frame_ok = gate.good_frames(fitted, self.body)
        failure = gate.failure(scores, frame_ok)
        return GateTrial(
            kind=kind,
            source_id=fitted.track.clip.video.source.source_id,
            scores=scores,
            frame_ok=frame_ok,
            reason="" if failure is None else failure[0],
            frame_reprojection=fitted.reprojection_px / heights,
            frame_matte_iou=matte_overlaps(fitted, self.body, np.arange(len(boxes))),
            evaluation=evaluate_fit(fitted, truth, person, self.body),
        )

    def spoil_pixels(self, kind: str, fitted: FittedTrack, person: int) -> Iterator[GateTrial | Reject]:
        track, video = fitted.track, fitted.track.clip.video
        spoil = corruption.pixel_corruption(
            kind,
            self._rng(kind, fitted),
            height=video.height_px,
            width=video.width_px,
            box_px=np.median(track.boxes_px, axis=0).astype(np.float32),
        )
        context = _SpoiledContext(self.context, spoil)
        record = self._keypoints(kind, track, context)
        if isinstance(record, Reject):
            yield record
            return
        truth = _still_visible(self.truths[video.source.source_id], spoil)
        for spoiled in self.config.fit(record, context):
            yield spoiled if isinstance(spoiled, Reject) else self.judge(kind, spoiled, truth, person, context)

    def spoil_records(
        self,
        kind: str,
        fitted: FittedTrack,
        person: int,
        others: Sequence[FittedTrack],
        partners: Sequence[FittedTrack],
    ) -> Iterator[GateTrial | Reject]:
        rng, record = self._rng(kind, fitted), fitted.keypointed
        truth = self.truths[fitted.track.clip.video.source.source_id]
        if kind == "wrong_matte":
            alphas = corruption.wrong_mattes(record.matted.alphas, rng)
            spoiled = replace(fitted, keypointed=replace(record, matted=replace(record.matted, alphas=alphas)))
            yield self.judge(kind, spoiled, truth, person, self.context)
        elif kind in ("shaken_pose", "other_fit"):
            if kind == "other_fit" and not others:
                return
            shaken = corruption.shaken_pose(fitted.body, rng) if kind == "shaken_pose" else _other(fitted, others, rng)
            spoiled = self._with_reprojection(replace(fitted, body=shaken))
            yield self.judge(kind, spoiled, truth, person, self.context)
        else:
            again = self._spoiled_keypoints(kind, record, partners, rng)
            for found in self.config.fit(again, self.context) if again is not None else ():
                yield found if isinstance(found, Reject) else self.judge(kind, found, truth, person, self.context)

    def _spoiled_keypoints(
        self, kind: str, record: KeypointTrack, partners: Sequence[FittedTrack], rng: np.random.Generator
    ) -> KeypointTrack | None:
        if kind == "shaken_keypoints":
            moved = corruption.shaken_keypoints(record.keypoints, record.matted.track.boxes_px, rng)
            return replace(record, keypoints=moved)
        if kind == "mirrored":
            mirror = wholebody.mirror_index()
            return replace(record, keypoints=corruption.mirrored_keypoints(record.keypoints, mirror, rng))
        assert kind == "switched_person", f"no corruption is called {kind}"
        mixed = (_switched(record, partner.keypointed) for partner in partners)
        return next((found for found in mixed if found is not None), None)

    def _keypoints(self, kind: str, track: Track, context: StageContext) -> KeypointTrack | Reject:
        """Matte and keypoints of spoiled frames, from the cache where an equal trial was made before."""
        stages = f"{self.config.matte!r} {self.config.keypoints!r} {self.seed} {_CACHE_VERSION} {kind} {track.key}"
        place = self.cache / kind / f"{track.key}_{zlib.crc32(stages.encode()):08x}.npz"
        if place.exists():
            return decode_records(place.read_bytes())[0]
        found: Any = next(iter(self.config.matte(track, context)))
        if isinstance(found, MattedTrack):
            found = next(iter(self.config.keypoints(found, context)))
        storage.publish(place, (encode_records([found]),))
        return found

    def _with_reprojection(self, fitted: FittedTrack) -> FittedTrack:
        """The track with the reprojection error that its body has, as the fit would have reported it."""
        record, settings = fitted.keypointed, self.config.fit.settings
        observations = observe_track(record, fitted.intrinsics.astype(np.float64), settings.observe)
        tree = solver_body(self.body, record.keypoints.landmark_set)
        pose = np.concatenate([fitted.body.global_orient[:, None], fitted.body.body_pose], 1).astype(np.float64)
        state = FitState(
            rotations=exp_rotation(pose),
            transl=fitted.body.transl.astype(np.float64),
            betas=fitted.body.betas.astype(np.float64),
        )
        objective = Objective(body=tree, observations=observations, priors=body_priors())
        return replace(fitted, reprojection_px=reprojection_px(objective, state).astype(np.float32))

    def _rng(self, kind: str, fitted: FittedTrack) -> np.random.Generator:
        return np.random.default_rng([self.seed, KINDS.index(kind), zlib.crc32(fitted.key.encode())])


@dataclass(slots=True)
class _SpoiledContext:
    """A stage context whose frames are spoiled."""

    inner: StageContext
    spoil: corruption.PixelCorruption

    def frames(self, video: Video, frame_indices: Int64[np.ndarray, " N"]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for index, frame in zip(frame_indices.tolist(), self.inner.frames(video, frame_indices), strict=True):
            yield self.spoil.apply(frame, index)

    def local_path(self, uri: str) -> str:
        return self.inner.local_path(uri)

    def backend(self, role: str, spec: BackendSpec) -> Any:
        return self.inner.backend(role, spec)


def _still_visible(truth: ClipTruth, spoil: corruption.PixelCorruption) -> ClipTruth:
    if not spoil.hidden.any():
        return truth
    persons = [
        replace(
            person,
            alpha_pngs=tuple(encode_png(spoil.visible_truth(person.alpha(n))) for n in range(truth.num_frames)),
        )
        for person in truth.persons
    ]
    return replace(truth, persons=tuple(persons))


def _other(fitted: FittedTrack, others: Sequence[FittedTrack], rng: np.random.Generator) -> Any:
    """Somebody else's body and motion, at this person's place and, half of the time, turned as this person is."""
    other = others[int(rng.integers(len(others)))].body
    own = fitted.body
    body = other.select(np.linspace(0, other.num_frames - 1, own.num_frames).round().astype(np.int64))
    orient = own.global_orient if rng.random() < 0.5 else body.global_orient
    return replace(body, transl=own.transl, global_orient=orient)


def _switched(record: KeypointTrack, partner: KeypointTrack) -> KeypointTrack | None:
    """A track that follows one person at first and the partner from the middle on; None when they share no span."""
    own, other = record.matted.track, partner.matted.track
    middle = int(np.median(own.frame_indices))
    first, second = np.flatnonzero(own.frame_indices < middle), np.flatnonzero(other.frame_indices >= middle)
    if min(len(first), len(second)) < _MIN_HALF:
        return None
    track = replace(
        own,
        frame_indices=np.concatenate([own.frame_indices[first], other.frame_indices[second]]),
        boxes_px=np.concatenate([own.boxes_px[first], other.boxes_px[second]]),
        scores=np.concatenate([own.scores[first], other.scores[second]]),
        other_boxes_px=tuple(
            itertools.chain((own.other_boxes_px[i] for i in first), (other.other_boxes_px[i] for i in second))
        ),
    )
    a, b = record.keypoints, partner.keypoints
    joined = {
        name: np.concatenate([getattr(a, name)[first], getattr(b, name)[second]])
        for name in ("points_px", "scores", "landmarks_m", "landmark_scores", "blendshapes", "face_px")
    }
    alphas = itertools.chain((record.matted.alphas[i] for i in first), (partner.matted.alphas[i] for i in second))
    return KeypointTrack(
        matted=MattedTrack(track=track, alphas=tuple(alphas)),
        keypoints=Keypoints(landmark_set=a.landmark_set, **joined),
    )
