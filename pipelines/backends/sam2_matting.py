"""Matting: SAM 2 follows the track's person through the clip from box prompts; edges are then drawn to the picture's.

`spec.weights` is a checkpoint of the package sam2, `spec.config` the name of its config inside that package, for
example configs/sam2.1/sam2.1_hiera_s.yaml. All frames of a track are cut out by one window that holds all its boxes,
scaled to at most 1024 px (the network's own size) and written as JPEG files, which is the form that the package reads.
Of every `_PROMPT_EVERY` frames the one whose box is least covered by others is prompted; logits [objects, 1, h, w] come
back for every frame. Ravi et al., "SAM 2: Segment Anything in Images and Videos" (2024). The mask is hard; the soft
alpha comes from `alpha.follow_edges`.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import importlib.util
import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8

from lhmforge.datasets.codecs import encode_jpeg
from lhmforge.datasets.errors import BackendError
from lhmforge.datasets.records import AlphaCrop, Track
from lhmforge.pipelines.alpha import encode_alpha, follow_edges
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.weights import digest, user_file
from lhmforge.pipelines.boxes import Window, covered_share, window_around

_PADDING = 1.2
_LONG_SIDE_PX = 1024
_PROMPT_EVERY = 30
_EDGE_RADIUS = 0.006  # of the picture's longer side: SAM's masks have a quarter of its resolution
_PERSON = 1  # the one object that is followed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reel:
    """A track's frames as files `00000.jpg`... in a folder, cut out by `window`, scaled to `size` (width, height)."""

    folder: Path
    window: Window
    size: tuple[int, int]

    def picture(self, row: int) -> UInt8[np.ndarray, "h w 3"]:
        read = cv2.imread(str(self.folder / f"{row:05d}.jpg"))
        assert read is not None
        return np.asarray(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), np.uint8)

    def to_picture(self, box_px: Float32[np.ndarray, 4]) -> Float32[np.ndarray, 4]:
        x0, y0, x1, y1 = self.window
        scale = np.array([self.size[0] / (x1 - x0), self.size[1] / (y1 - y0)] * 2, np.float32)
        limit = np.array([*self.size, *self.size], np.float32)
        return np.asarray(np.clip((box_px - [x0, y0, x0, y0]) * scale, 0, limit), np.float32)


class Sam2Matting:
    """`Matting`; the model is built at the first track, its state lives for one track."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._path = user_file(spec, "matting")
        self._predictor: Any = None

    def matte(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Iterator[AlphaCrop]:
        if self._predictor is None:
            self._predictor = _open(self._path, self._spec)
        with tempfile.TemporaryDirectory(prefix="lhmforge-sam2-") as folder:
            reel = _write_reel(frames, track, Path(folder))
            masks = self._follow(reel, track)
            x0, y0, x1, y1 = reel.window
            for row in range(len(track.boxes_px)):
                mask = masks.get(row, np.zeros(reel.size[::-1], np.uint8)).astype(np.float32) / 255
                alpha = follow_edges(reel.picture(row), mask, radius_px=_EDGE_RADIUS * max(reel.size))
                full = cv2.resize(alpha, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
                yield encode_alpha(np.asarray(full, np.float32), reel.window)

    def weight_digests(self) -> Sequence[str]:
        return (digest(self._path),)

    def _follow(self, reel: _Reel, track: Track) -> dict[int, UInt8[np.ndarray, "h w"]]:
        """Probability of the person in 0..255 per row of the track, from the first prompt forwards and backwards."""
        prompts = prompted_rows(track)
        masks: dict[int, np.ndarray] = {}
        with torch.inference_mode(), _precision(self._spec.device):
            state = self._predictor.init_state(video_path=str(reel.folder), offload_video_to_cpu=True)
            for row in prompts:
                box = reel.to_picture(track.boxes_px[row])
                self._predictor.add_new_points_or_box(inference_state=state, frame_idx=row, obj_id=_PERSON, box=box)
            for backwards in (False, True) if prompts[0] > 0 else (False,):
                steps = self._predictor.propagate_in_video(state, start_frame_idx=prompts[0], reverse=backwards)
                for row, objects, logits in steps:
                    masks[int(row)] = self._person(list(objects), logits, reel)
            self._predictor.reset_state(state)
        return masks

    def _person(self, objects: list[int], logits: torch.Tensor, reel: _Reel) -> UInt8[np.ndarray, "h w"]:
        expected = (len(objects), 1, *reel.size[::-1])
        if tuple(logits.shape) != expected or _PERSON not in objects:
            raise BackendError(f"{self._path}: SAM 2 gave logits {tuple(logits.shape)}, expected {expected}")
        probability = torch.sigmoid(logits[objects.index(_PERSON), 0].float())
        return np.asarray((probability * 255).round().to(torch.uint8).cpu().numpy())


def sam2_matting(spec: BackendSpec) -> Sam2Matting:
    """Factory; raises `BackendError` that says which file is missing, or which package is not installed."""
    backend = Sam2Matting(spec)
    if importlib.util.find_spec("sam2") is None:
        raise BackendError(
            "the matting backend 'sam2' needs the package sam2 (and torchvision): pip install 'lhmforge[sam2]'"
        )
    package = importlib.resources.files("sam2")
    if not (spec.config and package.joinpath(spec.config).is_file()):
        raise BackendError(
            f"the matting backend 'sam2' needs the name of a config inside the package sam2, got {spec.config!r}; for "
            'the small model of SAM 2.1: config="configs/sam2.1/sam2.1_hiera_s.yaml"'
        )
    return backend


def prompted_rows(track: Track) -> list[int]:
    """Of every `_PROMPT_EVERY` frames the row whose box is least covered by others; then by score, then the first."""
    count = len(track.boxes_px)
    covered = [covered_share(box, others) for box, others in zip(track.boxes_px, track.other_boxes_px, strict=True)]
    return [
        min(range(first, min(first + _PROMPT_EVERY, count)), key=lambda row: (covered[row], -track.scores[row], row))
        for first in range(0, count, _PROMPT_EVERY)
    ]


def _open(path: Path, spec: BackendSpec) -> Any:
    if spec.device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError(f"backend {spec.name!r}: device {spec.device!r} is asked for, but torch sees no GPU")
    try:
        from sam2.build_sam import build_sam2_video_predictor
    except ImportError as error:
        raise BackendError(f"the matting backend 'sam2' cannot be imported: {error}") from error
    try:
        return build_sam2_video_predictor(spec.config, str(path), device=spec.device)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise BackendError(f"{path} is not a checkpoint of SAM 2 with config {spec.config}: {error}") from error


def _precision(device: str) -> contextlib.AbstractContextManager[object]:
    """bfloat16 where it is fast."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.startswith("cuda") else contextlib.nullcontext()


def _write_reel(frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track, folder: Path) -> _Reel:
    video = track.clip.video
    boxes = track.boxes_px
    union = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]).astype(np.float32)
    window = window_around(union, padding=_PADDING, width=video.width_px, height=video.height_px)
    x0, y0, x1, y1 = window
    scale = min(1.0, _LONG_SIDE_PX / max(x1 - x0, y1 - y0))
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    for row, frame in enumerate(frames):
        part = cv2.resize(np.ascontiguousarray(frame[y0:y1, x0:x1]), size, interpolation=cv2.INTER_AREA)
        (folder / f"{row:05d}.jpg").write_bytes(encode_jpeg(np.asarray(part, np.uint8), quality=95))
    return _Reel(folder=folder, window=window, size=size)
