"""From a photo to a sample: read it, find its person, matte and fit them with the stages of curation.

A photo goes through curation as a very short still video, so the picture that the model sees is cut as in training.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lhmforge.datasets.errors import PhotoError
from lhmforge.datasets.records import Clip, FittedTrack, GatedTrack, Reject, SourceVideo, Track, TrackScores, Video
from lhmforge.datasets.sample import StoredSample, parse_sample
from lhmforge.datasets.shards import ShardSample
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.context import process_backend
from lhmforge.pipelines.pieces import IdentityConfig
from lhmforge.pipelines.stage import Stage
from lhmforge.pipelines.stages.pack import PackStage

MAX_SIDE_PX = 2560  # larger photos are shrunk: detectors and encoders see far less
MIN_SIDE_PX = 64
_STILL_FRAMES = 3  # trackers confirm a person only after seeing it more than once
_SMALL_BYSTANDER = 0.4  # people below this share of the tallest one's height do not make a photo ambiguous


_SEEN_SCORE = 0.3
_PARTS: tuple[tuple[str, tuple[int, ...]], ...] = (  # COCO body points of each part
    ("head", (0, 1, 2, 3, 4)),
    ("shoulders", (5, 6)),
    ("left arm", (7, 9)),
    ("right arm", (8, 10)),
    ("hips", (11, 12)),
    ("knees", (13, 14)),
    ("feet", (15, 16)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A displayed photo: upright, RGB, 8 bits, transparent parts white."""

    path: Path
    image: UInt8[np.ndarray, "H W 3"]
    digest: str  # sha256 of the file


def read_photo(path: Path) -> Photo:
    """Reads any format that Pillow knows: EXIF rotation, 16 bits, CMYK, palettes and alpha are resolved.

    Raises `PhotoError` for a file that is missing, no image, torn, or too small.
    """
    if not path.is_file():
        raise PhotoError(f"photo {path}: no such file")
    data = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as opened:
                # Shrinking while decoding keeps huge JPEGs cheap; other formats ignore it.
                opened.draft(None, (MAX_SIDE_PX, MAX_SIDE_PX))
                picture = _rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise PhotoError(f"photo {path}: not an image that can be read; convert it to JPEG or PNG") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"photo {path}: the image cannot be decoded ({error})") from error
    if min(picture.size) < MIN_SIDE_PX:
        raise PhotoError(f"photo {path}: {picture.size[0]} x {picture.size[1]} px; at least {MIN_SIDE_PX} are needed")
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    return Photo(path=path, image=np.asarray(picture), digest=hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoStages:
    """The stages between a clip and a fitted body; each takes what the one before makes."""

    track: Stage[Any, Any]
    matte: Stage[Any, Any]
    keypoints: Stage[Any, Any]
    fit: Stage[Any, Any]

    @classmethod
    def default(cls, *, body: str = "") -> PhotoStages:
        """Curation's default backends, on one frame; `body` is the path of an SMPL-X npz ("": the free body)."""
        from lhmforge.pipelines.stages.fit import FitStage
        from lhmforge.pipelines.stages.keypoints import KeypointsStage
        from lhmforge.pipelines.stages.matte import MatteStage
        from lhmforge.pipelines.stages.track import TrackStage

        still = IdentityConfig(min_piece=1, max_covered=1.0)  # nobody can swap places: everyone counts
        return cls(
            track=TrackStage(
                min_frames=1, max_frames=_STILL_FRAMES, detect_every=1, min_height_px=48.0, face=None, identity=still
            ),
            matte=MatteStage(),
            keypoints=KeypointsStage(),
            fit=FitStage(body=body),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPhoto:
    """A sample of one frame (the person's crop, matte, keypoints, camera and body), and what the user should know."""

    sample: StoredSample
    notices: tuple[str, ...]  # people left out, parts of the body that the photo does not show


def fit_photo(photo: Photo, stages: PhotoStages, *, person: int | None = None) -> FittedPhoto:
    """Finds and fits the photo's person.

    `person` chooses among several people, counted from the left from 0. Raises `PhotoError` when nobody is found,
    when there are several of like size and none was chosen, or when a stage turns the person down (with its words).
    """
    context = _PhotoContext(photo)
    persons = _outputs(stages.track, _still_clip(photo), context, photo)
    chosen = _choose(persons, person, photo)
    record: Any = _one_frame(chosen)
    for stage in (stages.matte, stages.keypoints, stages.fit):
        (record,) = _outputs(stage, record, context, photo)
    assert isinstance(record, FittedTrack)
    unknown = TrackScores(**{field.name: math.nan for field in fields(TrackScores)})
    gated = GatedTrack(fitted=record, scores=unknown, frame_ok=np.ones(1, bool))
    pack = PackStage(max_width_px=MAX_SIDE_PX, max_height_px=MAX_SIDE_PX, jpeg_quality=98)
    (packed,) = _outputs(pack, gated, context, photo)
    sample = parse_sample(ShardSample(key=packed.key, members=dict(packed.members)))
    return FittedPhoto(sample=sample, notices=(*_left_out(persons, chosen), *_unseen(sample)))


def unseen_parts(points_px: Float32[np.ndarray, "133 2"], scores: Float32[np.ndarray, " 133"]) -> tuple[str, ...]:
    """Parts of the body without an observed keypoint (COCO-WholeBody order); the feet count when an ankle is seen."""
    seen = (scores >= _SEEN_SCORE) & np.isfinite(points_px).all(1)
    return tuple(part for part, members in _PARTS if not seen[list(members)].any())


class _PhotoContext:
    """The `StageContext` of a video whose frames are all the same picture."""

    def __init__(self, photo: Photo) -> None:
        self._photo = photo

    def frames(self, video: Video, frame_indices: Int64[np.ndarray, " N"]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        yield from (self._photo.image for _ in frame_indices)

    def local_path(self, uri: str) -> str:
        return uri

    def backend(self, role: str, spec: BackendSpec) -> Any:
        return process_backend(role, spec)


def _rgb(picture: Image.Image) -> Image.Image:
    """8-bit sRGB on white."""
    if picture.mode.startswith(("I", "F")):  # 16-bit grey: Pillow's own conversion would clip it to 255
        values = np.asarray(picture, np.float64)
        top = 65535.0 if values.max() > 255 else 255.0
        grey = np.clip(values / top * 255.0 + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    profile = picture.info.get("icc_profile")
    if profile and picture.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert converted is not None
            return converted
        except ImageCms.PyCMSError:  # a broken profile: the plain conversion is what viewers fall back to as well
            return picture.convert("RGB")
    return picture.convert("RGB")


def _still_clip(photo: Photo) -> Clip:
    height, width = photo.image.shape[:2]
    video = Video(
        source=SourceVideo(uri=str(photo.path), source_id=photo.path.name),
        digest=photo.digest,
        container="image",
        codec=photo.path.suffix.lstrip(".").lower(),
        width_px=width,
        height_px=height,
        rotation_deg=0,
        num_frames=_STILL_FRAMES,
        fps=1.0,
        duration_s=float(_STILL_FRAMES),
        bit_depth=8,
    )
    return Clip(video=video, first_frame=0, end_frame=_STILL_FRAMES)


def _one_frame(track: Track) -> Track:
    """The last frame of a still track, when the tracker is surest."""
    return replace(
        track,
        frame_indices=track.frame_indices[-1:],
        boxes_px=track.boxes_px[-1:],
        scores=track.scores[-1:],
        other_boxes_px=track.other_boxes_px[-1:],
    )


def _outputs(stage: Stage[Any, Any], record: Any, context: _PhotoContext, photo: Photo) -> list[Any]:
    """What the stage makes of the record; raises `PhotoError` with the rejects' words when it makes nothing."""
    results = list(stage(record, context))
    made = [result for result in results if not isinstance(result, Reject)]
    if not made:
        reasons = "; ".join(f"{result.reason}: {result.detail}" for result in results)
        raise PhotoError(f"photo {photo.path}: {reasons or 'no person was found'} (stage {stage.name})")
    return made


def _left_out(persons: Sequence[Track], chosen: Track) -> tuple[str, ...]:
    if len(persons) == 1:
        return ()
    number = sum(_centre_x(track) < _centre_x(chosen) for track in persons)
    return (
        f"{len(persons)} people found; reconstructed number {number} from the left (x = {_centre_x(chosen):.0f} px); "
        "choose another one with --person",
    )


def _unseen(sample: StoredSample) -> tuple[str, ...]:
    parts = unseen_parts(sample.points_px[0], sample.point_scores[0])
    return (f"the photo does not show: {', '.join(parts)}; pose and looks there are guesses",) if parts else ()


def _centre_x(track: Track) -> float:
    return float(track.boxes_px[0, [0, 2]].mean())


def _choose(persons: Sequence[Track], person: int | None, photo: Photo) -> Track:
    ordered = sorted(persons, key=_centre_x)
    if person is not None:
        if not 0 <= person < len(ordered):
            raise PhotoError(f"photo {photo.path}: there is no person {person}; {len(ordered)} found, counted from 0")
        return ordered[person]
    heights = [float(track.boxes_px[0, 3] - track.boxes_px[0, 1]) for track in ordered]
    rivals = [index for index, height in enumerate(heights) if height >= _SMALL_BYSTANDER * max(heights)]
    if len(rivals) > 1:
        centres = ", ".join(f"{index} at x = {_centre_x(ordered[index]):.0f} px" for index in rivals)
        raise PhotoError(
            f"photo {photo.path}: {len(rivals)} people found ({centres}); choose one with --person, or crop"
        )
    return ordered[rivals[0]]
