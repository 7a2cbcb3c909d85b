"""Face identity: YuNet finds the face, SFace describes it; both run through OpenCV.

Input: RGB uint8 frames; output: unit vectors of 128 numbers. Two pictures of one person give a cosine of about 0.36 or
more (the threshold that SFace's authors give for pairs), two people mostly less than 0.25.
Wu et al., "YuNet: A Tiny Millisecond-level Face Detector" (2023); Zhong et al., "SFace: Sigmoid-Constrained
Hypersphere Loss for Robust Face Recognition" (2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.asset_table import asset
from lhmforge.datasets.assets import asset_path
from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.weights import embedded_or_user, embedded_or_user_digest
from lhmforge.pipelines.boxes import window_around

_NUM_FEATURES = 128
_MAX_SIDE = 320  # of the picture that YuNet sees; a face that fills it and one of a tenth of it are both found
_MIN_FACE_SCORE = 0.7
_MIN_FACE_PX = 20.0  # of the frame; smaller faces are too coarse to name anyone
_WIDTH, _HEIGHT = 2, 3  # columns of YuNet's rows


class SFaceEmbedder:
    """`FaceEmbedder`; the networks are read at the first face."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._finder: cv2.FaceDetectorYN | None = None
        self._recognizer: cv2.FaceRecognizerSF | None = None

    def embed(
        self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], boxes_px: Float32[np.ndarray, "N 4"]
    ) -> Float32[np.ndarray, "N D"]:
        """Unit vectors of the largest face inside each box; rows of NaN where there is none."""
        rows = [self._embed_one(frame, box) for frame, box in zip(frames, boxes_px, strict=True)]
        return np.stack(rows) if rows else np.zeros((0, _NUM_FEATURES), np.float32)

    def embed_pairs(
        self,
        frames: Iterable[UInt8[np.ndarray, "H W 3"]],
        others: Iterable[UInt8[np.ndarray, "H W 3"]],
        boxes_px: Float32[np.ndarray, "N 4"],
    ) -> Float32[np.ndarray, "N 2 D"]:
        """Unit vectors of the face found in each frame, and of the SAME place in the other picture of the same size.

        A rendering is judged even where no face can be found in it; rows of NaN where the frame shows none.
        """
        rows = [self._pair(*both, box) for both, box in zip(zip(frames, others, strict=True), boxes_px, strict=True)]
        return np.stack(rows) if rows else np.zeros((0, 2, _NUM_FEATURES), np.float32)

    def weight_digests(self) -> Sequence[str]:
        return (asset("yunet").sha256, embedded_or_user_digest(self._spec, "sface"))

    def _embed_one(self, frame: UInt8[np.ndarray, "H W 3"], box: Float32[np.ndarray, 4]) -> Float32[np.ndarray, " D"]:
        vectors: Float32[np.ndarray, " D"] = self._pair(frame, None, box)[0]
        return vectors

    def _pair(
        self, frame: UInt8[np.ndarray, "H W 3"], other: UInt8[np.ndarray, "H W 3"] | None, box: Float32[np.ndarray, 4]
    ) -> Float32[np.ndarray, "F D"]:
        finder, _ = self._networks()
        window = window_around(box, padding=1.0, width=frame.shape[1], height=frame.shape[0])
        pictures = [_shrunk_bgr(picture, window) for picture in (frame, other) if picture is not None]
        scale = pictures[0].shape[0] / max(window[3] - window[1], 1)
        finder.setInputSize((pictures[0].shape[1], pictures[0].shape[0]))
        _, faces = finder.detect(pictures[0])
        missing = np.full((len(pictures), _NUM_FEATURES), np.nan, np.float32)
        if faces is None or len(faces) == 0:
            return missing
        largest = faces[int((faces[:, _WIDTH] * faces[:, _HEIGHT]).argmax())]
        if largest[_HEIGHT] < _MIN_FACE_PX * scale:
            return missing
        return np.stack([self._describe(picture, largest) for picture in pictures])

    def _describe(
        self, picture: UInt8[np.ndarray, "h w 3"], face: Float32[np.ndarray, " F"]
    ) -> Float32[np.ndarray, " D"]:
        _, recognizer = self._networks()
        feature = np.asarray(recognizer.feature(recognizer.alignCrop(picture, face)), np.float32).ravel()
        return np.asarray(feature / max(float(np.linalg.norm(feature)), 1e-6), np.float32)

    def _networks(self) -> tuple[cv2.FaceDetectorYN, cv2.FaceRecognizerSF]:
        if self._finder is None or self._recognizer is None:
            weights, finder = embedded_or_user(self._spec, "sface"), asset_path("yunet")
            told = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns that a CPU is a CPU
            try:
                self._finder = cv2.FaceDetectorYN.create(str(finder), "", (_MAX_SIDE, _MAX_SIDE))
                self._finder.setScoreThreshold(_MIN_FACE_SCORE)
                self._recognizer = cv2.FaceRecognizerSF.create(str(weights), "")
            except cv2.error as error:
                raise BackendError(f"OpenCV cannot read {weights} as an SFace network: {error}") from error
            finally:
                cv2.utils.logging.setLogLevel(told)
        return self._finder, self._recognizer


def _shrunk_bgr(frame: UInt8[np.ndarray, "H W 3"], window: tuple[int, int, int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The window of the frame as OpenCV's networks take it."""
    x0, y0, x1, y1 = window
    picture = cv2.cvtColor(np.ascontiguousarray(frame[y0:y1, x0:x1]), cv2.COLOR_RGB2BGR)
    scale = min(1.0, _MAX_SIDE / max(picture.shape[:2]))
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture


def sface_embedder(spec: BackendSpec) -> SFaceEmbedder:
    """Factory of the embedded face identity."""
    return SFaceEmbedder(spec)
