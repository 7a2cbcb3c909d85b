"""SAM 2 through its package's functions: a small package of the same form stands in for it."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from people import track

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.alpha import full_alpha
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.sam2_matting import prompted_rows

_CONFIG = "configs/tiny.yaml"
_STAND_IN = """
import pathlib, types
import cv2, numpy as np, torch

class Predictor:
    # Follows the red blob of which the prompted box holds most, from frame to frame by overlap.
    def init_state(self, video_path, offload_video_to_cpu=False):
        files = sorted(pathlib.Path(video_path).glob("*.jpg"), key=lambda file: int(file.stem))
        return types.SimpleNamespace(frames=[cv2.imread(str(file))[..., 2] for file in files], prompts={})

    def add_new_points_or_box(self, inference_state, frame_idx, obj_id, box=None):
        mask = np.zeros(inference_state.frames[0].shape, bool)
        x0, y0, x1, y1 = np.round(box).astype(int)
        mask[y0:y1, x0:x1] = True
        inference_state.prompts[frame_idx] = (obj_id, mask)

    def propagate_in_video(self, inference_state, start_frame_idx=None, reverse=False):
        before = None
        step, end = (-1, -1) if reverse else (1, len(inference_state.frames))
        for index in range(start_frame_idx, end, step):
            if index in inference_state.prompts:
                obj_id, before = inference_state.prompts[index]
            count, labels = cv2.connectedComponents((inference_state.frames[index] > 127).astype(np.uint8))
            overlap = [(labels[before] == label).sum() for label in range(1, count)]
            mask = labels == 1 + int(np.argmax(overlap)) if max(overlap, default=0) else np.zeros_like(before)
            before = mask
            logits = torch.from_numpy(np.where(mask, 8.0, -8.0)[None, None].astype(np.float32))
            yield index, [obj_id], logits

    def reset_state(self, inference_state):
        inference_state.frames.clear()

def build_sam2_video_predictor(config_file, ckpt_path=None, device="cuda"):
    if pathlib.Path(ckpt_path).read_bytes() != b"ok":
        raise RuntimeError("missing keys")
    return Predictor()
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path with a package sam2."""
    if "sam2" in sys.modules:
        pytest.skip("the real sam2 is loaded")
    site = tmp_path / "site"
    (site / "sam2" / "configs").mkdir(parents=True)
    (site / "sam2" / "__init__.py").write_text("")
    (site / "sam2" / "build_sam.py").write_text(textwrap.dedent(_STAND_IN))
    (site / "sam2" / _CONFIG).write_text("model: tiny")
    monkeypatch.syspath_prepend(str(site))
    yield site
    for name in [name for name in sys.modules if name.split(".")[0] == "sam2"]:
        del sys.modules[name]


def _spec(folder: Path, *, checkpoint: bytes = b"ok", config: str = _CONFIG) -> BackendSpec:
    (folder / "sam2.pt").write_bytes(checkpoint)
    return BackendSpec(name="sam2", weights=str(folder / "sam2.pt"), config=config)


def _scene(count: int = 6) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Two red boxes of 40x100 px that walk towards each other in frames of 400x240 px; per frame the first's box."""
    frames, boxes, others = [], [], []
    for index in range(count):
        frame = np.full((240, 400, 3), 20, np.uint8)
        left, right = 60 + 10 * index, 300 - 10 * index
        frame[80:180, left : left + 40] = (220, 40, 30)
        frame[80:180, right : right + 40] = (200, 30, 40)
        frame[185:235, left : left + 40] = (30, 40, 220)  # what shows where channels are swapped
        frames.append(frame)
        boxes.append((left - 4, 76, left + 44, 184))
        others.append(np.array([[right, 80, right + 40, 180]], np.float32))
    return frames, np.array(boxes, np.float32), others


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("best", [0, 3])
def test_the_prompted_person_is_followed_both_ways(tmp_path: Path, best: int) -> None:
    frames, boxes, others = _scene()
    person = track(frames, boxes, others)
    scores = np.full(len(frames), 0.5, np.float32)
    scores[best] = 0.9
    person = dataclasses.replace(person, scores=scores)
    assert prompted_rows(person) == [best]
    backend = load_backend("matting", _spec(tmp_path))
    for _ in range(2):  # nothing is left over from one track to the next
        crops = list(backend.matte(iter(frames), person))
        assert len(crops) == len(frames)
        for index, crop in enumerate(crops):
            alpha = full_alpha(crop, width=400, height=240).astype(float) / 255
            truth = np.zeros((240, 400))
            truth[80:180, 60 + 10 * index : 100 + 10 * index] = 1
            assert np.abs(alpha - truth).sum() < 0.05 * truth.sum()
    assert len(backend.weight_digests()) == 1


def test_prompts_avoid_frames_in_which_others_cover_the_person() -> None:
    frames = [np.zeros((100, 100, 3), np.uint8)] * 65
    boxes = np.tile(np.array([20, 20, 60, 90], np.float32), (65, 1))
    others = [
        np.array([[20, 20, 60, 90]], np.float32) if row % 30 < 7 else np.zeros((0, 4), np.float32) for row in range(65)
    ]
    assert prompted_rows(track(frames, boxes, others)) == [7, 37, 60]


@pytest.mark.usefixtures("stand_in")
def test_wrong_files_and_names_are_told(tmp_path: Path) -> None:
    frames, boxes, _ = _scene(2)
    with pytest.raises(BackendError, match=r"sam2\.pt is not a checkpoint"):
        list(load_backend("matting", _spec(tmp_path, checkpoint=b"x")).matte(iter(frames), track(frames, boxes)))
    for config in ("", "configs/none.yaml"):
        with pytest.raises(BackendError, match="name of a config inside the package"):
            load_backend("matting", _spec(tmp_path, config=config))


def test_without_the_package_the_extra_is_named(tmp_path: Path) -> None:
    try:
        import sam2  # noqa: F401
    except ImportError:
        with pytest.raises(BackendError, match=r"pip install 'lhmforge\[sam2\]'"):
            load_backend("matting", _spec(tmp_path))
