"""What backends do to a picture before a model sees it, with generated models whose answer depends on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import seeing_models as seeing
import torch
from people import track

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.alpha import full_alpha
from lhmforge.pipelines.backends.registry import BACKENDS, load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.user_weights import USER_WEIGHTS

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
AT, DECOY = (131.3, 88.6), (70.0, 190.0)
BOX = np.array([[40, 30, 190, 250]], np.float32)


def simcc(tmp_path: Path) -> BackendSpec:
    path = seeing.simcc_model(tmp_path / "rtmw.onnx", height=384, width=288, num_points=133)
    return BackendSpec(name="rtmw_onnx", weights=str(path), batch_size=4)


def rtmpose(tmp_path: Path) -> BackendSpec:
    path = seeing.simcc_model(tmp_path / "rtmpose.onnx", height=256, width=192, num_points=17)
    return BackendSpec(name="rtmw_onnx", weights=str(path))


def sapiens(tmp_path: Path) -> BackendSpec:
    model = seeing.SeeingTorch((123.5, 116.5, 103.5), (58.5, 57.0, 57.5), 133)
    torch.jit.script(model).save(str(tmp_path / "sapiens.pt2"))
    return BackendSpec(name="sapiens", weights=str(tmp_path / "sapiens.pt2"), batch_size=2)


@pytest.mark.parametrize("make", [simcc, rtmpose, sapiens])
@pytest.mark.parametrize("box", [BOX, BOX * (1, 1, 0.8, 1) + 10, np.array([[60, 60, 240, 130]], np.float32)])
def test_keypoints_lie_on_the_colour_whatever_the_crop(make, box: np.ndarray, tmp_path: Path) -> None:
    frame = seeing.spots(260, 300, AT, DECOY)
    keypoints = load_backend("keypoints", make(tmp_path)).estimate(iter([frame]), track([frame], box))
    found = keypoints.scores[0] > 0
    assert found.sum() >= 17
    np.testing.assert_allclose(keypoints.points_px[0][found], np.tile(AT, (found.sum(), 1)), atol=0.9)
    assert keypoints.scores[0][found].min() > 0.85


def rtmdet(path: Path) -> tuple[Path, int]:
    return seeing.rtmdet_model(path, 320), 1


def yolox(path: Path) -> tuple[Path, int]:
    return seeing.yolox_model(path, 320), 1


def rtdetr(path: Path) -> tuple[Path, int]:
    return seeing.rtdetr_model(path, 320, with_sizes=False), 1


def rtdetr_with_sizes(path: Path) -> tuple[Path, int]:
    return seeing.rtdetr_model(path, 320, with_sizes=True), 1


@pytest.mark.parametrize("make", [rtmdet, yolox, rtdetr, rtdetr_with_sizes])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (360, 640)])
def test_detectors_give_the_coloured_box(make, width: int, height: int, tmp_path: Path) -> None:
    frame = seeing.boxes(width, height, (150, 100, 270, 400), (20, 20, 90, 200))
    path, count = make(tmp_path / "detector.onnx")
    (found,) = load_backend("detector", BackendSpec(name="onnx", weights=str(path))).detect([frame])
    assert len(found.boxes_px) == count
    np.testing.assert_allclose(found.boxes_px[0], (150, 100, 270, 400), atol=2.5)
    assert found.scores[0] > 0.95


def matting(name: str, config: str, scaling: tuple) -> pytest.param:
    return pytest.param(name, config, scaling, id=f"{name}-{config or 'default'}")


@pytest.mark.parametrize(
    ("name", "config", "scaling"),
    [
        matting("onnx", "", seeing.IMAGENET), matting("onnx", "half", seeing.HALF),
        matting("torchscript", "imagenet", seeing.IMAGENET), matting("modnet", "", seeing.HALF),
    ],
)  # fmt: skip
def test_mattes_cover_the_coloured_box_alone(name: str, config: str, scaling: tuple, tmp_path: Path) -> None:
    path = tmp_path / "matting"
    if name == "torchscript":
        torch.jit.script(seeing.SeeingTorch(*scaling, 0)).save(str(path))
    else:
        seeing.matting_model(path, scaling)
    alpha = matte(BackendSpec(name=name, weights=str(path), config=config))
    assert alpha[70:150, 65:105].min() > 0.95 and alpha[:, 125:].max() < 0.1 and alpha[:50].max() < 0.1


def test_recurrent_mattes_see_unit_colours_and_their_ratio(tmp_path: Path) -> None:
    alpha = matte(BackendSpec(name="rvm_onnx", weights=str(seeing.rvm_model(tmp_path / "rvm.onnx"))))
    inside = alpha[70:150, 65:105]
    assert inside.max() - inside.min() < 0.05 and 0.3 < inside.mean() < 0.95  # 512 over the longer side
    assert alpha[:, 125:].max() < 0.1


def matte(spec: BackendSpec) -> np.ndarray:
    frame = seeing.boxes(180, 220, (60, 60, 110, 160), (130, 60, 170, 160))
    person = track([frame], np.array([[30, 30, 178, 190]], np.float32))
    (crop,) = load_backend("matting", spec).matte(iter([frame]), person)
    return full_alpha(crop, width=180, height=220).astype(float) / 255


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rgb: (rgb[..., ::-1] - seeing.IMAGENET[0]) / seeing.IMAGENET[1],
        lambda rgb: (rgb - 127.5) / 127.5,
        lambda rgb: rgb / 255.0,
        lambda rgb: (rgb / 255.0 - seeing.IMAGENET[0]) / seeing.IMAGENET[1],
        lambda rgb: (rgb - np.array(seeing.IMAGENET[0])[::-1]) / seeing.IMAGENET[1],
    ],
)
def test_the_models_notice_a_wrong_scaling(wrong, tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(str(seeing.matting_model(tmp_path / "m.onnx", seeing.IMAGENET)))
    rgb = seeing.boxes(64, 64, (8, 8, 24, 40), (40, 8, 60, 40)).astype(np.float32)

    def seen(picture: np.ndarray) -> np.ndarray:
        fed = np.ascontiguousarray(picture.transpose(2, 0, 1)[None].astype(np.float32))
        return session.run(None, {"input": fed})[0][0, 0, 8:40, 8:24]

    assert seen((rgb - seeing.IMAGENET[0]) / seeing.IMAGENET[1]).min() > 0.99 > 0.75 > seen(wrong(rgb)).max()


EMBEDDED = {
    ("shots", "pyscenedetect"), ("shots", "transnetv2"), ("detector", "ssd_mobilenet"), ("tracker", "bytetrack"),
    ("keypoints", "mediapipe"), ("matting", "modnet"), ("face", "sface"),
}  # fmt: skip


def test_every_backend_that_is_not_embedded_tells_its_licence() -> None:
    """`lhmforge assets list` prints these rows."""
    supplied = {(row.role, row.backend) for row in USER_WEIGHTS}
    assert supplied == {entry for entry in BACKENDS if entry[1] != "fake"} - EMBEDDED
    assert all(row.licence and row.official and row.file_format for row in USER_WEIGHTS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
@pytest.mark.parametrize("make", [simcc, sapiens])
def test_a_device_that_is_not_there_is_refused(make, tmp_path: Path) -> None:
    frame = seeing.spots(260, 300, AT, DECOY)
    spec = dataclasses.replace(make(tmp_path), device="cuda:0")
    with pytest.raises(BackendError, match="cuda:0"):
        load_backend("keypoints", spec).estimate(iter([frame]), track([frame], BOX))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_are_as_large_as_the_recipe_says(batch_size: int, tmp_path: Path, monkeypatch) -> None:
    sizes: list[int] = []

    class Counting(seeing.SeeingTorch):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            sizes.append(len(pictures))
            return super().forward(pictures)

    model = Counting((123.5, 116.5, 103.5), (58.5, 57.0, 57.5), 17)
    monkeypatch.setattr("lhmforge.pipelines.backends.sapiens.load_torchscript", lambda path, spec: model)
    spec = dataclasses.replace(sapiens(tmp_path), batch_size=batch_size)
    frames = [seeing.spots(260, 300, AT, DECOY)] * 3
    load_backend("keypoints", spec).estimate(iter(frames), track(frames, np.repeat(BOX, 3, axis=0)))
    assert sizes == {1: [1, 1, 1], 2: [2, 1], 5: [3]}[batch_size]
