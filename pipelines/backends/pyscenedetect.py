"""Shot boundaries by PySceneDetect's adaptive detector, flashes and exposure jumps taken out.

A cut is a jump of colour against its neighbourhood after which the picture stays another one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32

from lhmforge.datasets.errors import BackendError, VideoError
from lhmforge.pipelines.backends.roles import BackendSpec

_ADAPTIVE_THRESHOLD = 3.0  # ratio of a frame's change to the rolling mean: robust to moving cameras
_MIN_CHANGE = 15.0  # mean HSV change (0..255) below which nothing is a cut
_MIN_SHOT_S = 0.4
_FLASH_REACH = 3  # frames on both sides of a cut that are compared
_SAME_SCENE = 0.9  # correlation of the thumbnails before and after


class PySceneDetectShots:
    """`ShotDetector` without weights; single-threaded and deterministic."""

    def cuts(self, path: str, *, num_frames: int, fps: float) -> list[int]:
        import scenedetect

        logging.getLogger("pyscenedetect").setLevel(logging.WARNING)
        detector = scenedetect.AdaptiveDetector(
            adaptive_threshold=_ADAPTIVE_THRESHOLD,
            min_content_val=_MIN_CHANGE,
            min_scene_len=max(2, round(_MIN_SHOT_S * fps)),
        )
        try:
            video = scenedetect.open_video(path, backend="opencv")
            manager = scenedetect.SceneManager()
            manager.add_detector(detector)
            manager.detect_scenes(video)
        except (scenedetect.VideoOpenFailure, OSError) as error:
            raise VideoError(f"shot detection cannot read {path}: {error}") from error
        starts = [int(start.frame_num) for start, _ in manager.get_scene_list()]
        cuts = sorted({start for start in starts if 0 < start < num_frames})
        return _without_flashes(path, cuts)

    def weight_digests(self) -> Sequence[str]:
        return ()


def pyscenedetect_shots(spec: BackendSpec) -> PySceneDetectShots:
    """Factory; this backend has no weights, so a spec that names some is a mistake."""
    if spec.weights:
        raise BackendError("the shots backend 'pyscenedetect' takes no weights; remove them from its BackendSpec")
    return PySceneDetectShots()


def _without_flashes(path: str, cuts: list[int]) -> list[int]:
    """Drops the cuts after which the old picture comes back; correlation does not see a change of exposure."""
    wanted = {cut + offset for cut in cuts for offset in (-_FLASH_REACH, _FLASH_REACH)}
    pictures = _thumbnails(path, wanted)
    kept: list[int] = []
    for cut in cuts:
        before, after = pictures.get(cut - _FLASH_REACH), pictures.get(cut + _FLASH_REACH)
        if before is None or after is None or float(np.mean(before * after)) < _SAME_SCENE:
            kept.append(cut)
    return kept


def _thumbnails(path: str, wanted: set[int]) -> dict[int, Float32[np.ndarray, "h w"]]:
    """Grey thumbnails with mean 0 and variance 1 of the wanted frames that exist, by frame index."""
    capture = cv2.VideoCapture(path)
    found: dict[int, Float32[np.ndarray, "h w"]] = {}
    for index in range(max(wanted, default=-1) + 1):
        if not capture.grab():
            break
        if index in wanted:
            readable, frame = capture.retrieve()
            if readable:
                small = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (48, 32), interpolation=cv2.INTER_AREA)
                found[index] = ((small - small.mean()) / max(float(small.std()), 1e-3)).astype(np.float32)
    capture.release()
    return found
