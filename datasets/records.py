"""The records of curation: one frozen type per arrow from a source video to a packed sample.

Frames are counted in decode order from 0 over the whole video. Boxes are `x0, y0, x1, y1` in pixels of the
displayed frame (rotation metadata applied), pixel centres at +0.5. A record's `key` is derived from content digest
and span, so that the same content gets the same key on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int64, UInt64

from lhmforge.datasets.body.params import BodyParams


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceVideo:
    """One row of the corpus: where a video lies and what its owner says about it."""

    uri: str
    source_id: str
    channel: str = ""
    licence: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A source whose container and stream were read; sizes are those of the displayed frame."""

    source: SourceVideo
    digest: str  # sha256 of the file, hex
    container: str
    codec: str
    width_px: int
    height_px: int
    rotation_deg: int
    num_frames: int
    fps: float
    duration_s: float
    bit_depth: int

    @property
    def key(self) -> str:
        return self.digest[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A span `[first_frame, end_frame)` of one video without a shot boundary inside."""

    video: Video
    first_frame: int
    end_frame: int

    @property
    def key(self) -> str:
        return f"{self.video.key}_{self.first_frame:06d}_{self.end_frame:06d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One person of one clip: the sampled frames in which the person was seen, with a box each."""

    clip: Clip
    person: int  # 0-based, in order of first appearance, then from left to right
    frame_indices: Int64[np.ndarray, " N"]  # ascending, absolute
    boxes_px: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, " N"]
    other_boxes_px: tuple[Float32[np.ndarray, "_ 4"], ...]  # per frame, the other persons' boxes

    @property
    def key(self) -> str:
        return f"{self.clip.key}_p{self.person:02d}"

    @property
    def path(self) -> TrackPath:
        """The track's boxes alone."""
        return TrackPath(key=self.key, frame_indices=self.frame_indices, boxes_px=self.boxes_px, scores=self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackPath:
    """Where a track goes through its clip; kept for tracks that are turned down too, so that tracking can be scored."""

    key: str  # of the track
    frame_indices: Int64[np.ndarray, " N"]
    boxes_px: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, " N"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaCrop:
    """A soft alpha matte of a window of one frame, zero outside it; kept as PNG so that a long track stays small."""

    window_px: tuple[int, int, int, int]  # x0, y0, x1, y1, integer, inside the frame
    png: bytes  # 8-bit grey, size of the window


@dataclass(frozen=True, slots=True, kw_only=True)
class MattedTrack:
    """A track with one alpha matte per frame, other persons excluded."""

    track: Track
    alphas: tuple[AlphaCrop, ...]

    @property
    def key(self) -> str:
        return self.track.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Keypoints:
    """Whole-body keypoints of `N` frames in COCO-WholeBody 133 order; a score of 0 means "not observed".

    `landmarks_m` are 3D landmarks in metres, camera axes (x right, y down, z forward), hip-centred, in the order that
    `landmark_set` names ("none": L = 0, "mediapipe_33": L = 33). `blendshapes` are 52 ARKit coefficients in 0..1 or
    empty (S = 0). `face_px` are 478 MediaPipe face-mesh points or empty (F = 0).
    """

    points_px: Float32[np.ndarray, "N 133 2"]
    scores: Float32[np.ndarray, "N 133"]
    landmark_set: str
    landmarks_m: Float32[np.ndarray, "N L 3"]
    landmark_scores: Float32[np.ndarray, "N L"]
    blendshapes: Float32[np.ndarray, "N S"]
    face_px: Float32[np.ndarray, "N F 2"]

    @property
    def num_frames(self) -> int:
        return len(self.points_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeypointTrack:
    """A matted track with whole-body keypoints."""

    matted: MattedTrack
    keypoints: Keypoints

    @property
    def key(self) -> str:
        return self.matted.key


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTrack:
    """A track with one body shape, a pose per frame and a camera; the body is in OpenCV camera coordinates."""

    keypointed: KeypointTrack
    body: BodyParams
    body_digest: str  # sha256 of the body model file the parameters belong to
    intrinsics: Float32[np.ndarray, "3 3"]  # of the displayed frame, pixels
    reprojection_px: Float32[np.ndarray, " N"]  # mean over the visible fitted keypoints of the frame
    pose_uncertainty_rad: Float32[np.ndarray, " N"]  # expected root mean square of the joints' angle errors

    @property
    def key(self) -> str:
        return self.keypointed.key

    @property
    def track(self) -> Track:
        return self.keypointed.matted.track


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackScores:
    """What the gate measured over a track; every value is kept for rejected tracks too. NaN: not measurable."""

    num_frames: float
    duration_s: float
    detection: float  # mean detector score
    reprojection: float  # median over frames of reprojection error / box height
    matte_iou: float  # median over frames of IoU between matte (>= 0.5) and the body's silhouette
    jitter: float  # median joint acceleration, m/frame^2
    coverage: float  # mean share of body joints that are seen and inside the frame
    height_px: float  # median box height
    face_px: float  # median face size
    hand_px: float  # median hand size
    sharpness: float  # median variance of the Laplacian in the person's window
    motion: float  # mean joint speed relative to the pelvis, m/s
    view_rad: float  # median yaw of the body against the camera, 0 = facing it
    shape_norm: float  # root mean square of betas


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedTrack:
    """A fitted track that passed the gate: scores, and which of its frames are good enough to keep."""

    fitted: FittedTrack
    scores: TrackScores
    frame_ok: np.ndarray  # bool [N]

    @property
    def key(self) -> str:
        return self.fitted.key

    @property
    def track(self) -> Track:
        return self.fitted.track


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a sample's footage looks like, in bits that survive re-encoding; says nothing about who is in it.

    Per key frame, ascending in time from the start of the video: a hash of the whole frame and one of the window that
    the person's box takes up. Hashes of like pictures differ in few bits.
    """

    times_s: Float32[np.ndarray, " K"]
    frame_hashes: UInt64[np.ndarray, " K"]
    person_hashes: UInt64[np.ndarray, " K"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """Who a sample shows, as vectors: biometric data, kept apart from everything else."""

    face: Float32[np.ndarray, " F"]  # unit vector; NaN where no face was seen
    num_faces: int  # pictures behind it
    body: Float32[np.ndarray, " B"]  # unit vector: colours of head, trunk and legs


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSample:
    """The members of one sample as they go into a shard, sorted by name, and its manifest row's values."""

    key: str
    source: SourceVideo
    members: tuple[tuple[str, bytes], ...]  # ("sample.json", b"..."), ("frame_0000.jpg", b"..."), ...
    scores: TrackScores
    num_frames: int
    video_digest: str
    first_frame: int
    end_frame: int
    person: int
    body_digest: str
    signature: Signature | None = field(default=None, compare=False)
    likeness: Likeness | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A record that ended at a stage, with a reason code (snake_case, stable) and a sentence for people."""

    key: str  # key of the record that ended: source_id, video, clip or track key
    source: SourceVideo
    stage: str
    reason: str
    detail: str
    scores: TrackScores | None = field(default=None)
    path: TrackPath | None = field(default=None)  # of a track that the track stage turned down
