"""Stage: finds every person of a clip and follows each one: one track per person."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.records import Clip, Reject, Track
from lhmforge.pipelines.appearance import describe_persons
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec, Detections, Tracklet
from lhmforge.pipelines.boxes import covered_share, interpolate_boxes, iou
from lhmforge.pipelines.heads import HeadPictures
from lhmforge.pipelines.identity import resolve_identities
from lhmforge.pipelines.pieces import IdentityConfig
from lhmforge.pipelines.stage import StageContext

_DEFAULT_DETECTOR = BackendSpec(name="ssd_mobilenet")
_DEFAULT_TRACKER = BackendSpec(name="bytetrack")
_DEFAULT_FACE = BackendSpec(name="sface")
_SAME_PERSON_IOU = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackStage:
    """Clip -> Track; a clip without people, and tracks that are short, small or doubtful, are rejected.

    Frames are sampled at `sample_fps` (at most `max_frames` of them, from the start of the clip); the detector sees
    every `detect_every`-th of these but at least `min_detect_fps` a second, as far as frames are sampled: people who
    cross cannot be followed at a lower rate. Boxes in between are interpolated. Gaps of up to `max_gap_s` are filled
    in the same way unless another person covers the box there. Faces (unless `face` is None) and colours decide who
    is who after people crossed. While a person is lost between two sightings, the frames of
    others whose box the lost one is likely to be behind (share above `max_hidden`) are dropped: they show two people.
    """

    name: ClassVar[str] = "track"
    version: ClassVar[int] = 3
    accepts: ClassVar[type] = Clip
    produces: ClassVar[type] = Track

    detector: BackendSpec = _DEFAULT_DETECTOR
    tracker: BackendSpec = _DEFAULT_TRACKER
    face: BackendSpec | None = _DEFAULT_FACE
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    sample_fps: float = 10.0
    max_frames: int = 300
    detect_every: int = 2
    min_detect_fps: float = 5.0
    max_gap_s: float = 0.6
    max_hidden: float = 0.3
    min_frames: int = 5
    min_duration_s: float = 0.8
    min_height_px: float = 96.0
    min_score: float = 0.55

    def __post_init__(self) -> None:
        if self.sample_fps <= 0 or self.max_gap_s < 0:
            raise ConfigError(
                f"track: sample_fps must be > 0 and max_gap_s >= 0, got {self.sample_fps} and {self.max_gap_s}"
            )
        if self.min_detect_fps < 0 or self.min_duration_s < 0:
            raise ConfigError(
                "track: min_detect_fps and min_duration_s must be >= 0, got "
                f"{self.min_detect_fps} and {self.min_duration_s}"
            )
        if min(self.detect_every, self.min_frames) < 1 or self.max_frames < self.min_frames:
            raise ConfigError(
                "track: detect_every and min_frames must be >= 1 and max_frames >= min_frames, got "
                f"{self.detect_every}, {self.min_frames}, {self.max_frames}"
            )

    def __call__(self, record: Clip, context: StageContext) -> Iterator[Track | Reject]:
        sampled, fps = self._sampled_frames(record)
        every = self._detection_step(fps)
        keys = np.unique(np.append(np.arange(0, len(sampled), every), len(sampled) - 1)).astype(np.int64)
        heads = None if self.face is None else HeadPictures(context.backend("face", self.face))
        detections = self._detect(record, sampled[keys], context, heads)
        tracklets = context.backend("tracker", self.tracker).link(detections, fps=fps / every)
        persons = resolve_identities(tracklets, detections, self.identity, heads.vectors if heads else None)
        if not persons:
            detail = f"no person was followed in {len(keys)} frames of the clip"
            yield Reject(key=record.key, source=record.video.source, stage=self.name, reason="no_person", detail=detail)
        filled = [self._densify(person, keys, detections, fps) for person in persons]
        dense = [_without_hidden(number, filled, self.max_hidden) for number in range(len(filled))]
        for number in range(len(dense)):
            yield self._track_or_reject(record, number, dense, sampled, keys, detections, fps)

    def sampled_frames(self, first_frame: int, end_frame: int, fps: float) -> Int64[np.ndarray, " N"]:
        """The frames of a clip that are looked at; the rest of the chain knows no others."""
        return np.arange(first_frame, end_frame, self._sampling_step(fps), dtype=np.int64)[: self.max_frames]

    def weight_digests(self) -> Sequence[str]:
        detector = load_backend("detector", self.detector).weight_digests()
        face = () if self.face is None else load_backend("face", self.face).weight_digests()
        return (*detector, *load_backend("tracker", self.tracker).weight_digests(), *face)

    def _sampled_frames(self, clip: Clip) -> tuple[Int64[np.ndarray, " N"], float]:
        """Absolute indices of the sampled frames, and their rate in Hz."""
        indices = self.sampled_frames(clip.first_frame, clip.end_frame, clip.video.fps)
        return indices, clip.video.fps / self._sampling_step(clip.video.fps)

    def _sampling_step(self, fps: float) -> int:
        return max(1, round(fps / self.sample_fps))

    def _detection_step(self, fps: float) -> int:
        """Sampled frames from one detection to the next."""
        fast_enough = int(fps / self.min_detect_fps) if self.min_detect_fps > 0 else self.detect_every
        return max(1, min(self.detect_every, fast_enough))

    def _detect(
        self, clip: Clip, frame_indices: Int64[np.ndarray, " K"], context: StageContext, heads: HeadPictures | None
    ) -> list[Detections]:
        """Detections of the key frames, each with an appearance: the detector's own or our colour descriptor."""
        detector = context.backend("detector", self.detector)
        waiting: deque[UInt8[np.ndarray, "H W 3"]] = deque()
        found: list[Detections] = []
        for detections in detector.detect(_remember(context.frames(clip.video, frame_indices), waiting)):
            frame = waiting.popleft()
            if detections.appearance.shape[1] == 0:
                appearance = describe_persons(frame, detections.boxes_px)
                detections = dataclasses.replace(detections, appearance=appearance)
            if heads is not None:
                heads.keep(len(found), frame, detections)
            found.append(detections)
        return found

    def _densify(
        self, person: Tracklet, keys: Int64[np.ndarray, " K"], detections: Sequence[Detections], fps: float
    ) -> Tracklet:
        """A tracklet over key frames as one over sampled frames, short and uncovered gaps filled."""
        known = keys[person.positions]
        longest = max(1, self.max_gap_s * fps, self._detection_step(fps))
        nearest = np.abs(keys[None] - np.arange(known[0], known[-1] + 1)[:, None]).argmin(axis=1)
        every = np.arange(known[0], known[-1] + 1, dtype=np.int64)
        boxes = interpolate_boxes(every, known, person.boxes_px)
        after = np.searchsorted(known, every)
        gap = known[after] - known[np.maximum(after - 1, 0)]
        keep = np.isin(every, known) | (gap <= longest)
        for row in np.flatnonzero(keep & ~np.isin(every, known)):
            others = _without_own(detections[nearest[row]].boxes_px, boxes[row])
            keep[row] = covered_share(boxes[row], others) <= self.identity.max_covered
        scores = np.interp(every, known, person.scores).astype(np.float32)
        return Tracklet(positions=every[keep], boxes_px=boxes[keep], scores=scores[keep])

    def _track_or_reject(
        self,
        clip: Clip,
        number: int,
        persons: Sequence[Tracklet],
        sampled: Int64[np.ndarray, " N"],
        keys: Int64[np.ndarray, " K"],
        detections: Sequence[Detections],
        fps: float,
    ) -> Track | Reject:
        person = persons[number]
        track = Track(
            clip=clip,
            person=number,
            frame_indices=sampled[person.positions],
            boxes_px=person.boxes_px,
            scores=person.scores,
            other_boxes_px=_other_boxes(number, persons, keys, detections),
        )
        refusal = self._refusal(track, fps)
        if refusal is None:
            return track
        reason, detail = refusal
        source = clip.video.source
        return Reject(key=track.key, source=source, stage=self.name, reason=reason, detail=detail, path=track.path)

    def _refusal(self, track: Track, fps: float) -> tuple[str, str] | None:
        """Reason code and sentence when the track is not worth annotating."""
        if len(track.frame_indices) == 0:
            return "hidden_by_others", "in every frame someone who was lost at the time is likely to be in the same box"
        if len(track.frame_indices) < max(self.min_frames, self.min_duration_s * fps - 1e-6):
            needed = f"{self.min_frames} frames and {self.min_duration_s:g} s are needed"
            return "track_too_short", f"seen in {len(track.frame_indices)} frames sampled at {fps:.3g} Hz; {needed}"
        height = float(np.median(track.boxes_px[:, 3] - track.boxes_px[:, 1]))
        score = float(track.scores.mean())
        if height < self.min_height_px:
            return "person_too_small", f"median box height {height:.0f} px, {self.min_height_px:.0f} px are needed"
        if score < self.min_score:
            return "detection_doubtful", f"mean detector score {score:.2f}, {self.min_score:.2f} is needed"
        return None


def _remember(
    frames: Iterator[UInt8[np.ndarray, "H W 3"]], waiting: deque[UInt8[np.ndarray, "H W 3"]]
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Passes frames on and keeps those that a batching detector has taken but not yet answered."""
    for frame in frames:
        waiting.append(frame)
        yield frame


def _without_hidden(number: int, persons: Sequence[Tracklet], max_hidden: float) -> Tracklet:
    """A person without the positions at which someone lost is probably behind or in front of them."""
    own = persons[number]
    keep = np.ones(len(own.positions), bool)
    for index, other in enumerate(persons):
        if index == number or len(other.positions) == 0:
            continue
        inside = (own.positions > other.positions[0]) & (own.positions < other.positions[-1])
        lost = np.flatnonzero(inside & ~np.isin(own.positions, other.positions))
        guessed = interpolate_boxes(own.positions[lost], other.positions, other.boxes_px)
        for row, box in zip(lost, guessed, strict=True):
            keep[row] &= covered_share(own.boxes_px[row], box[None]) <= max_hidden
    return Tracklet(positions=own.positions[keep], boxes_px=own.boxes_px[keep], scores=own.scores[keep])


def _other_boxes(
    number: int, persons: Sequence[Tracklet], keys: Int64[np.ndarray, " K"], detections: Sequence[Detections]
) -> tuple[Float32[np.ndarray, "M 4"], ...]:
    """Per frame of a person: boxes of the other tracks, and detections of the nearest key frame that no track took."""
    own = persons[number]
    rows: list[np.ndarray] = []
    for position, box in zip(own.positions, own.boxes_px, strict=True):
        others = [
            other.boxes_px[np.searchsorted(other.positions, position)][None]
            for index, other in enumerate(persons)
            if index != number and position in other.positions
        ]
        known = np.concatenate([np.zeros((0, 4), np.float32), *others])
        loose = _without_own(detections[int(np.abs(keys - position).argmin())].boxes_px, box)
        taken = iou(loose, known).max(axis=1, initial=0.0) > _SAME_PERSON_IOU
        rows.append(np.concatenate([known, loose[~taken]]).astype(np.float32))
    return tuple(rows)


def _without_own(boxes: Float32[np.ndarray, "M 4"], own: Float32[np.ndarray, 4]) -> Float32[np.ndarray, "K 4"]:
    return boxes[iou(boxes, own[None])[:, 0] <= _SAME_PERSON_IOU]
