"""Shot boundaries by PySceneDetect's adaptive detector: a cut is a jump of colour against its neighbourhood."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lhmforge.datasets.errors import BackendError, VideoError
from lhmforge.pipelines.backends.roles import BackendSpec

_ADAPTIVE_THRESHOLD = 3.0  # ratio of a frame's change to the rolling mean: robust to moving cameras
_MIN_CHANGE = 15.0  # mean HSV change (0..255) below which nothing is a cut
_MIN_SHOT_S = 0.4


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
        return sorted({start for start in starts if 0 < start < num_frames})

    def weight_digests(self) -> Sequence[str]:
        return ()


def pyscenedetect_shots(spec: BackendSpec) -> PySceneDetectShots:
    """Factory; this backend has no weights, so a spec that names some is a mistake."""
    if spec.weights:
        raise BackendError("the shots backend 'pyscenedetect' takes no weights; remove them from its BackendSpec")
    return PySceneDetectShots()
