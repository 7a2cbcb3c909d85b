"""Fits one SMPL-X body per track: a shape for the whole track, a pose per frame, a camera."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar

from lhmforge.datasets.body.resolve import body_path
from lhmforge.datasets.records import FittedTrack, KeypointTrack, Reject
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.fitting.track_fit import FittingBody, TrackFitConfig, fit_track
from lhmforge.pipelines.stage import StageContext
from lhmforge.pipelines.uncertainty import UncertaintyLaw


@dataclass(frozen=True, slots=True, kw_only=True)
class FitStage:
    """Keypoints to body parameters in camera coordinates.

    `body` is a path of an SMPL-X npz file ("": the free body). `body_init` names a backend of the role "body_init"
    whose regressed bodies replace the start from landmarks. `uncertainty` says how wrong the pose probably is.
    Rejects: `no_person` (too few points in every frame).
    """

    name: ClassVar[str] = "fit"
    version: ClassVar[int] = 4
    accepts: ClassVar[type] = KeypointTrack
    produces: ClassVar[type] = FittedTrack

    body: str = ""
    body_init: BackendSpec | None = None
    settings: TrackFitConfig = field(default_factory=TrackFitConfig)
    uncertainty: UncertaintyLaw = field(default_factory=UncertaintyLaw)

    def __call__(self, record: KeypointTrack, context: StageContext) -> Iterator[FittedTrack | Reject]:
        track = record.matted.track
        regressed = None
        if self.body_init is not None:
            initialiser = context.backend("body_init", self.body_init)
            regressed = initialiser.start(track.clip, track, record.keypoints)
        fitted = fit_track(record, _fitting_body(self.body), self.settings, regressed)
        if fitted is None:
            yield Reject(
                key=record.key,
                source=track.clip.video.source,
                stage=self.name,
                reason="no_person",
                detail="no frame shows four or more confident body keypoints",
            )
            return
        expected = self.uncertainty.expected_rad(fitted.reprojection_px, track.boxes_px)
        yield replace(fitted, pose_uncertainty_rad=expected)

    def weight_digests(self) -> Sequence[str]:
        initialiser = () if self.body_init is None else load_backend("body_init", self.body_init).weight_digests()
        return (_body_digest(self.body), *initialiser)


@lru_cache(maxsize=2)
def _fitting_body(body: str) -> FittingBody:
    return FittingBody.load(body_path(body or None))


@lru_cache(maxsize=2)
def _body_digest(body: str) -> str:
    return hashlib.sha256(body_path(body or None).read_bytes()).hexdigest()
