"""mmpose through its two functions: a small package of the same form stands in for it in a child's import path."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from people import track

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec

_STAND_IN = """
import importlib, pathlib, types, numpy as np
compiled = importlib.import_module("mmcv._ext").nms  # mmcv takes operators in this way, at import

def init_model(config, checkpoint=None, device="cuda:0", cfg_options=None):
    text = pathlib.Path(config).read_text()
    if "num_keypoints" not in text:
        raise KeyError("model")
    if pathlib.Path(checkpoint).read_bytes() != b"ok":
        raise RuntimeError("invalid load key")
    return types.SimpleNamespace(count=int(text.split("=")[1]), device=device)

def inference_topdown(model, img, bboxes=None, bbox_format="xyxy"):
    # Each keypoint lies where the picture is bluest inside the box; mmpose gets BGR.
    samples = []
    for x0, y0, x1, y1 in np.asarray(bboxes).astype(int):
        part = img[y0:y1, x0:x1, 0]
        y, x = np.unravel_index(part.argmax(), part.shape)
        points = np.tile(np.array([[x0 + x, y0 + y]], float), (1, model.count, 1))
        instances = types.SimpleNamespace(keypoints=points, keypoint_scores=np.full((1, model.count), 1.2))
        samples.append(types.SimpleNamespace(pred_instances=instances))
    return samples
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path with packages mmpose, mmcv (without its compiled part) and mmengine."""
    if any(name in sys.modules for name in ("mmpose", "mmcv", "mmengine")):
        pytest.skip("the real mmpose is loaded")
    site = tmp_path / "site"
    for package in ("mmpose", "mmcv", "mmengine", "mmpose/apis"):
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").write_text("")
    (site / "mmpose" / "apis" / "__init__.py").write_text(textwrap.dedent(_STAND_IN))
    monkeypatch.syspath_prepend(str(site))
    yield site
    for name in [name for name in sys.modules if name.split(".")[0] in ("mmpose", "mmcv", "mmengine")]:
        del sys.modules[name]


def _spec(folder: Path, *, num_points: int = 133, checkpoint: bytes = b"ok", config: str = "") -> BackendSpec:
    (folder / "config.py").write_text(config or f"num_keypoints={num_points}")
    (folder / "weights.pth").write_bytes(checkpoint)
    return BackendSpec(name="mmpose", weights=str(folder / "weights.pth"), config=str(folder / "config.py"))


def _frames() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    spots = np.array([[70, 90], [75, 92]])
    frames = [np.zeros((150, 120, 3), np.uint8) for _ in spots]
    for frame, (x, y) in zip(frames, spots, strict=True):
        frame[10, 10] = (0, 0, 255)  # outside the box
        frame[y, x] = (0, 0, 200)  # blue in RGB
        frame[100, 60] = (255, 0, 0)  # red: bluest only if the channels were swapped
    return frames, np.tile(np.array([40, 40, 110, 140], np.float32), (2, 1)), spots


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("num_points", [17, 133, 308])
def test_points_come_from_the_box_in_bgr(tmp_path: Path, num_points: int) -> None:
    frames, boxes, spots = _frames()
    backend = load_backend("keypoints", _spec(tmp_path, num_points=num_points))
    keypoints = backend.estimate(iter(frames), track(frames, boxes))
    assert keypoints.points_px.shape == (2, 133, 2)
    assert (keypoints.scores.max(axis=1) == 1).all()
    for row, spot in enumerate(spots):
        np.testing.assert_allclose(keypoints.points_px[row, :17], np.tile(spot, (17, 1)))
    assert "mmcv._ext" not in sys.modules
    assert len(backend.weight_digests()) == 2


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"config": "nothing = 1"}, "cannot build a model"),
        ({"checkpoint": b"torn"}, "invalid load key"),
        ({"num_points": 21}, "gives 21 keypoints"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path: Path, changes: dict, told: str) -> None:
    frames, boxes, _ = _frames()
    backend = load_backend("keypoints", _spec(tmp_path, **changes))
    with pytest.raises(BackendError, match=told) as error:
        backend.estimate(iter(frames), track(frames, boxes))
    assert "config.py" in str(error.value)


@pytest.mark.usefixtures("stand_in")
def test_a_model_that_needs_compiled_operators_says_so(tmp_path: Path) -> None:
    frames, boxes, _ = _frames()
    load_backend("keypoints", _spec(tmp_path)).estimate(iter(frames), track(frames, boxes))
    with pytest.raises(BackendError, match="compiled operator nms"):
        sys.modules["mmpose.apis"].compiled(1, 2)


def test_without_the_package_or_the_config_the_user_is_told(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="needs a config file"):
        load_backend("keypoints", BackendSpec(name="mmpose", weights=_spec(tmp_path).weights))
    try:
        import mmpose  # noqa: F401
    except ImportError:
        with pytest.raises(BackendError, match=r"pip install 'lhmforge\[mmpose\]'"):
            load_backend("keypoints", _spec(tmp_path))
