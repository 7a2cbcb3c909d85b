"""Face identity on real faces: one person stays near, others are far, and no face gives NaN."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.registry import backend_names, load_backend
from lhmforge.pipelines.backends.roles import BackendSpec

# Who stands where in the clip, read from its frames: x from and to, in px; all heads are above y = 420.
_SEEN = {
    0: {"beard": (0, 400), "woman": (380, 620), "suit": (620, 1000)},
    15: {"beard": (0, 400), "woman": (380, 620), "suit": (620, 1000)},
    345: {"suit": (0, 360), "woman": (340, 560), "beard": (620, 1080)},
}


def _frame(path: Path, index: int) -> np.ndarray:
    capture = cv2.VideoCapture(str(path))
    for _ in range(index):
        assert capture.grab()
    frame = capture.read()[1]
    capture.release()
    return np.ascontiguousarray(frame[..., ::-1])


def test_one_person_is_near_and_others_are_far(real_videos: Path) -> None:
    embedder = load_backend("face", BackendSpec(name="sface"))
    names: list[str] = []
    rows: list[np.ndarray] = []
    for index, seen in _SEEN.items():
        frame = _frame(real_videos / "three_people_crossing.mp4", index)
        boxes = np.array([(left, 0, right, 420) for left, right in seen.values()], np.float32)
        rows.append(embedder.embed([frame] * len(boxes), boxes))
        names += seen
    vectors = np.concatenate(rows)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosine = vectors @ vectors.T
    same = np.array([[a == b for b in names] for a in names])
    assert cosine[same].min() > cosine[~same].max() + 0.05
    assert np.median(cosine[same]) > 0.5 and np.median(cosine[~same]) < 0.2


def test_where_no_face_is_the_row_is_nan() -> None:
    embedder = load_backend("face", BackendSpec(name="sface"))
    grey = np.full((120, 90, 3), 128, np.uint8)
    vectors = embedder.embed([grey], np.array([[0, 0, 90, 120]], np.float32))
    assert vectors.shape == (1, 128) and np.isnan(vectors).all()
    assert embedder.embed([], np.zeros((0, 4), np.float32)).shape == (0, 128)


def test_the_role_lists_it_and_its_weights_are_known() -> None:
    assert "sface" in backend_names("face")
    digests = load_backend("face", BackendSpec(name="sface")).weight_digests()
    assert len(set(digests)) == 2 and all(len(digest) == 64 for digest in digests)


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "face.onnx"
    broken.write_bytes(b"no network")
    embedder = load_backend("face", BackendSpec(name="sface", weights=str(broken)))
    with pytest.raises(BackendError, match=r"face\.onnx"):
        embedder.embed([np.zeros((40, 40, 3), np.uint8)], np.array([[0, 0, 40, 40]], np.float32))
