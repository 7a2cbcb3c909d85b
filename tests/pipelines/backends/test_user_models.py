"""Backends with the user's own files, each tried with a small generated model of the same format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from people import track

from lhmforge.datasets.codecs import encode_npz
from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.registry import BACKENDS, load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.topdown_keypoints import without_landmarks
from lhmforge.pipelines.backends.user_weights import USER_WEIGHTS

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
FLOAT = TensorProto.FLOAT


class _BrightSpot(torch.nn.Module):
    """Sapiens-shaped: every keypoint's heatmap is the picture's brightness, at a quarter of the size."""

    def __init__(self, num_points: int) -> None:
        super().__init__()
        self.num_points = num_points

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        grey = torch.sigmoid(2.0 * pictures.mean(dim=1, keepdim=True))
        return torch.nn.functional.avg_pool2d(grey, 4).expand(-1, self.num_points, -1, -1)


def _spot_frames(count: int = 3) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    frames, spots = [], []
    for index in range(count):
        x, y = 100 + 10 * index, 120
        rows, columns = np.mgrid[:300, :260] + 0.5
        blob = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2))
        frame = np.repeat(np.round(blob)[..., None], 3, axis=2).astype(np.uint8)
        frames.append(frame)
        spots.append((x, y))
    return frames, np.tile(np.array([60, 40, 200, 260], np.float32), (count, 1)), np.array(spots, np.float32)


def _save(path: Path, nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> Path:
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def _constant_outputs(
    path: Path, shape: tuple[int | str, ...], outputs: dict[str, np.ndarray], extra: tuple = ()
) -> Path:
    """A model that ignores its picture and gives constants: enough to test reading the outputs."""
    inputs = [helper.make_tensor_value_info("images", FLOAT, shape), *extra]
    nodes = [helper.make_node("Identity", [f"{name}_value"], [name]) for name in outputs]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in outputs.items()
    ]
    return _save(path, nodes, inputs, infos, {f"{name}_value": value for name, value in outputs.items()})


@pytest.mark.parametrize(("num_points", "seen"), [(17, 17), (133, 133), (308, 96)])
def test_sapiens_finds_a_spot_and_writes_133_points(tmp_path: Path, num_points: int, seen: int) -> None:
    path = tmp_path / "sapiens.pt2"
    torch.jit.script(_BrightSpot(num_points)).save(str(path))
    frames, boxes, spots = _spot_frames(3)
    backend = load_backend("keypoints", BackendSpec(name="sapiens", weights=str(path), batch_size=2))
    keypoints = backend.estimate(iter(frames), track(frames, boxes))
    assert keypoints.points_px.shape == (3, 133, 2)
    found = keypoints.scores > 0
    assert (found.sum(axis=1) == found[0].sum()).all()
    assert abs(int(found[0].sum()) - seen) <= 4
    for index in range(3):
        np.testing.assert_allclose(
            keypoints.points_px[index][found[index]], spots[index][None].repeat(found[0].sum(), 0), atol=1.0
        )
    assert (
        backend.weight_digests()
        == load_backend("keypoints", BackendSpec(name="sapiens", weights=str(path))).weight_digests()
    )


def test_rtmw_onnx_reads_simcc(tmp_path: Path) -> None:
    simcc_x, simcc_y = np.zeros((1, 133, 576), np.float32), np.zeros((1, 133, 768), np.float32)
    simcc_x[0, :, 288], simcc_y[0, :, 384] = 0.7, 0.9
    path = _constant_outputs(tmp_path / "rtmw.onnx", (1, 3, 384, 288), {"simcc_x": simcc_x, "simcc_y": simcc_y})
    frames, boxes, _ = _spot_frames(2)
    backend = load_backend("keypoints", BackendSpec(name="rtmw_onnx", weights=str(path), batch_size=8))
    keypoints = backend.estimate(iter(frames), track(frames, boxes))
    np.testing.assert_allclose(keypoints.points_px[0], np.tile((130, 150), (133, 1)), atol=0.5)
    np.testing.assert_allclose(keypoints.scores, 0.7, atol=1e-5)


def test_rtmdet_outputs_are_scaled_back_from_the_letterbox(tmp_path: Path) -> None:
    dets = np.array([[[64, 32, 128, 160, 0.9], [0, 0, 20, 20, 0.8], [200, 200, 220, 220, 0.05]]], np.float32)
    labels = np.array([[0, 7, 0]], np.int64)
    path = _constant_outputs(tmp_path / "rtmdet.onnx", (1, 3, 320, 320), {"dets": dets, "labels": labels})
    detector = load_backend("detector", BackendSpec(name="onnx", weights=str(path)))
    (found,) = detector.detect([np.zeros((640, 480, 3), np.uint8)])
    np.testing.assert_allclose(found.boxes_px, [[128, 64, 256, 320]])
    np.testing.assert_allclose(found.scores, [0.9])


def test_yolox_outputs_are_decoded_from_cells(tmp_path: Path) -> None:
    size = 320
    count = sum((size // stride) ** 2 for stride in (8, 16, 32))
    rows = np.zeros((1, count, 85), np.float32)
    cell = (size // 8) ** 2 + (size // 16) * 5 + 4  # second level, column 4, row 5
    rows[0, cell] = 0
    rows[0, cell, :6] = (0.5, 0.5, np.log(2), np.log(4), 0.9, 1.0)
    path = _constant_outputs(tmp_path / "yolox.onnx", (1, 3, size, size), {"output": rows})
    detector = load_backend("detector", BackendSpec(name="onnx", weights=str(path)))
    (found,) = detector.detect([np.zeros((size, size, 3), np.uint8)])
    np.testing.assert_allclose(found.boxes_px, [[72 - 16, 88 - 32, 72 + 16, 88 + 32]], atol=1e-3)


@pytest.mark.parametrize("logits", [True, False])
def test_rtdetr_boxes_are_relative_to_the_frame(tmp_path: Path, logits: bool) -> None:
    boxes = np.array([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.1, 0.1]]], np.float32)
    scores = np.full((1, 2, 80), -5.0 if logits else 0.0, np.float32)
    scores[0, 0, 0] = 3.0 if logits else 0.95
    path = _constant_outputs(tmp_path / "rtdetr.onnx", (1, 3, 64, 64), {"logits": scores, "pred_boxes": boxes})
    detector = load_backend("detector", BackendSpec(name="onnx", weights=str(path)))
    (found,) = detector.detect([np.zeros((100, 200, 3), np.uint8)])
    np.testing.assert_allclose(found.boxes_px, [[80, 30, 120, 70]], atol=1e-3)
    np.testing.assert_allclose(found.scores, [0.9526 if logits else 0.95], atol=1e-3)


def _brightness_matting(path: Path) -> Path:
    picture = helper.make_tensor_value_info("input", FLOAT, (1, 3, "h", "w"))
    alpha = helper.make_tensor_value_info("output", FLOAT, (1, 1, "h", "w"))
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Clip", ["mean", "zero", "one"], ["output"]),
    ]
    return _save(path, nodes, [picture], [alpha], {"zero": np.float32(0).reshape(()), "one": np.float32(1).reshape(())})


def test_onnx_and_torchscript_matting_give_the_bright_part(tmp_path: Path) -> None:
    class _Bright(torch.nn.Module):
        def forward(self, picture: torch.Tensor) -> list[torch.Tensor]:
            return [picture, picture.mean(dim=1, keepdim=True).clamp(0, 1)]

    script = tmp_path / "matting.ts"
    torch.jit.script(_Bright()).save(str(script))
    frame = np.zeros((160, 120, 3), np.uint8)
    frame[40:120, 40:80] = 255
    person = track([frame], np.array([[30, 30, 90, 130]]))
    for name, path in (("onnx", _brightness_matting(tmp_path / "matting.onnx")), ("torchscript", script)):
        backend = load_backend("matting", BackendSpec(name=name, weights=str(path)))
        (crop,) = backend.matte(iter([frame]), person)
        solid = _full(crop, frame) > 127
        assert solid[50:110, 45:75].all(), name
        assert solid.sum() < 1.2 * 80 * 40, name


def test_recurrent_matting_carries_its_state_over_the_track_and_not_further(tmp_path: Path) -> None:
    path = _rvm(tmp_path / "rvm.onnx")
    backend = load_backend("matting", BackendSpec(name="rvm_onnx", weights=str(path)))
    frames = [np.zeros((96, 96, 3), np.uint8)] * 3
    person = track(frames, np.tile(np.array([16, 16, 80, 80], np.float32), (3, 1)))
    for _ in range(2):
        means = [_full(crop, frames[0])[30:60, 30:60].mean() for crop in backend.matte(iter(frames), person)]
        np.testing.assert_allclose(means, np.array([0.25, 0.5, 0.75]) * 255, atol=1)


def _rvm(path: Path) -> Path:
    """Each state counts frames; the alpha is a quarter of the count everywhere."""
    names = ["src", *(f"r{i}i" for i in range(1, 5)), "downsample_ratio"]
    shapes: list[tuple] = [(1, 3, "h", "w"), *[("b", "c", "y", "x")] * 4, (1,)]
    inputs = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in zip(names, shapes, strict=True)]
    outputs = [helper.make_tensor_value_info("pha", FLOAT, (1, 1, "h", "w"))]
    outputs += [helper.make_tensor_value_info(f"r{i}o", FLOAT, ("b", "c", "y", "x")) for i in range(1, 5)]
    nodes = [helper.make_node("Add", [f"r{i}i", "one"], [f"r{i}o"]) for i in range(1, 5)]
    nodes += [
        helper.make_node("ReduceMean", ["src"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["downsample_ratio", "none"], ["nothing"]),
        helper.make_node("Mul", ["grey", "none"], ["black"]),
        helper.make_node("Add", ["black", "nothing"], ["dark"]),
        helper.make_node("Mul", ["r1o", "quarter"], ["level"]),
        helper.make_node("Add", ["dark", "level"], ["pha"]),
    ]
    constants = {"one": 1.0, "none": 0.0, "quarter": 0.25}
    return _save(path, nodes, inputs, outputs, {k: np.full((1, 1, 1, 1), v, np.float32) for k, v in constants.items()})


def _full(crop, frame: np.ndarray) -> np.ndarray:
    from lhmforge.pipelines.alpha import full_alpha

    return full_alpha(crop, width=frame.shape[1], height=frame.shape[0]).astype(float)


def test_npz_bodies_are_matched_by_frame_and_box(tmp_path: Path) -> None:
    frames = [np.zeros((100, 100, 3), np.uint8)] * 3
    person = track(frames, np.tile(np.array([10, 10, 50, 90], np.float32), (3, 1)))
    arrays = {
        "frame_indices": np.array([0, 0, 2]),
        "boxes_px": np.array([[60, 10, 95, 90], [11, 11, 50, 90], [12, 10, 50, 90]], np.float32),
        "global_orient": np.array([[0, 0, 0], [0, np.pi / 2, 0], [0, 0, 0]]),
        "body_pose": np.zeros((3, 63)),
        "transl": np.array([[9, 9, 9], [1, 2, 3], [4, 5, 6]]),
        "betas": np.tile(np.arange(10.0), (3, 1)),
    }
    path = tmp_path / "bodies.npz"
    path.write_bytes(encode_npz(arrays))
    backend = load_backend("body_init", BackendSpec(name="npz", weights=str(path)))
    start = backend.start(
        person.clip, person, without_landmarks(np.zeros((3, 133, 2), np.float32), np.zeros((3, 133), np.float32))
    )
    assert start.valid.tolist() == [True, False, True]
    np.testing.assert_allclose(start.transl[[0, 2]], [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_allclose(start.rotations[0, 0] @ [0, 0, 1], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(start.betas, np.arange(10.0))


def test_npz_without_a_needed_array_says_which(tmp_path: Path) -> None:
    frames = [np.zeros((10, 10, 3), np.uint8)]
    person = track(frames, np.array([[0, 0, 9, 9]]))
    path = tmp_path / "bodies.npz"
    path.write_bytes(encode_npz({"frame_indices": np.array([0])}))
    empty = without_landmarks(np.zeros((1, 133, 2), np.float32), np.zeros((1, 133), np.float32))
    with pytest.raises(BackendError, match="global_orient"):
        load_backend("body_init", BackendSpec(name="npz", weights=str(path))).start(person.clip, person, empty)


@pytest.mark.parametrize("row", USER_WEIGHTS, ids=lambda row: f"{row.role}-{row.backend}")
def test_every_listed_backend_exists_and_explains_what_it_needs(row, tmp_path: Path) -> None:
    assert (row.role, row.backend) in BACKENDS
    with pytest.raises(BackendError, match="licence") as told:
        load_backend(row.role, BackendSpec(name=row.backend))
    assert row.official in str(told.value)
    with pytest.raises(BackendError, match="does not exist"):
        load_backend(row.role, BackendSpec(name=row.backend, weights=str(tmp_path / "missing")))


@pytest.mark.parametrize("name", ["sapiens", "rtmw_onnx"])
def test_a_file_of_the_wrong_kind_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.bin"
    path.write_bytes(b"these are not weights")
    frames, boxes, _ = _spot_frames(1)
    backend = load_backend("keypoints", BackendSpec(name=name, weights=str(path)))
    with pytest.raises(BackendError, match=r"wrong\.bin"):
        backend.estimate(iter(frames), track(frames, boxes))
