"""Sapiens2 and ViTPose: tiny models with random weights, saved and loaded as users do; skipped without transformers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from people import track
from PIL import Image

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec

needs_package = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def _sapiens2(num_keypoints: int):
    transformers = pytest.importorskip("transformers", reason="the extra [sapiens2] is not installed")
    config = transformers.Sapiens2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32,
        image_size=[128, 96], patch_size=16, num_labels=num_keypoints,
        head_config={"upsample_out_channels": [16, 16], "conv_out_channels": [16]},
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.Sapiens2ForPoseEstimation(config)


def _vitpose(num_keypoints: int, *, num_experts: int = 1):
    transformers = pytest.importorskip("transformers", reason="the extra [vitpose] is not installed")
    backbone = transformers.VitPoseBackboneConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=[64, 48],
        patch_size=[16, 16], num_experts=num_experts, part_features=8, out_indices=[1],
    )  # fmt: skip
    torch.manual_seed(0)
    labels = {index: str(index) for index in range(num_keypoints)}
    config = transformers.VitPoseConfig(backbone_config=backbone, id2label=labels)
    return transformers.VitPoseForPoseEstimation(config)


def _frames() -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 255, (200, 160, 3)).astype(np.uint8) for _ in range(3)]
    return frames, np.tile(np.array([40, 30, 120, 180], np.float32), (3, 1))


@needs_package
@pytest.mark.parametrize(("name", "num_keypoints"), [("sapiens2", 308), ("vitpose", 17), ("vitpose", 133)])
def test_a_saved_folder_gives_133_points(tmp_path: Path, name: str, num_keypoints: int) -> None:
    model = _sapiens2(num_keypoints) if name == "sapiens2" else _vitpose(num_keypoints)
    model.save_pretrained(tmp_path)
    frames, boxes = _frames()
    runs = []
    for batch_size in (1, 3):
        spec = BackendSpec(name=name, weights=str(tmp_path), batch_size=batch_size)
        runs.append(load_backend("keypoints", spec).estimate(iter(frames), track(frames, boxes)))
    assert runs[0].points_px.shape == (3, 133, 2)
    assert np.isfinite(runs[0].points_px).all()
    np.testing.assert_allclose(runs[0].points_px, runs[1].points_px, atol=0.5)
    assert len(load_backend("keypoints", spec).weight_digests()) == 2


@needs_package
def test_crops_are_scaled_as_the_packages_own_processor_does(tmp_path: Path) -> None:
    processing = pytest.importorskip("transformers.models.vitpose.image_processing_pil_vitpose")
    model = _vitpose(17).eval()
    model.save_pretrained(tmp_path)
    frames, boxes = _frames()
    smooth = [cv2.GaussianBlur(frame, (0, 0), 6) for frame in frames]
    backend = load_backend("keypoints", BackendSpec(name="vitpose", weights=str(tmp_path)))
    ours = backend.estimate(iter(smooth), track(smooth, boxes))
    x0, y0, x1, y1 = boxes[0].tolist()
    processor = processing.VitPoseImageProcessorPil(size={"height": 64, "width": 48})
    inputs = processor(Image.fromarray(smooth[0]), boxes=[[[x0, y0, x1 - x0, y1 - y0]]], return_tensors="pt")
    with torch.inference_mode():
        peaks = model(**inputs).heatmaps[0].amax(dim=(1, 2)).numpy()
    inside = ours.scores[0, :17] > 0
    assert inside.sum() >= 8
    np.testing.assert_allclose(ours.scores[0, :17][inside], peaks[inside], atol=0.03)


@needs_package
def test_an_expert_is_chosen_for_vitpose_plus(tmp_path: Path) -> None:
    _vitpose(17, num_experts=3).save_pretrained(tmp_path)
    frames, boxes = _frames()
    spec = BackendSpec(name="vitpose", weights=str(tmp_path), batch_size=2)
    assert load_backend("keypoints", spec).estimate(iter(frames), track(frames, boxes)).num_frames == 3


@needs_package
def test_a_folder_without_some_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    _vitpose(17).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    lost = next(name for name in tensors if name.startswith("head."))
    save_file({name: value for name, value in tensors.items() if name != lost}, file, {"format": "pt"})
    frames, boxes = _frames()
    with pytest.raises(BackendError, match=lost):
        load_backend("keypoints", BackendSpec(name="vitpose", weights=str(tmp_path))).estimate(
            iter(frames), track(frames, boxes)
        )


@needs_package
def test_a_folder_of_another_model_or_torn_weights_are_refused(tmp_path: Path) -> None:
    _vitpose(17).save_pretrained(tmp_path)
    frames, boxes = _frames()
    with pytest.raises(BackendError, match="describes a 'vitpose' model"):
        load_backend("keypoints", BackendSpec(name="sapiens2", weights=str(tmp_path))).estimate(
            iter(frames), track(frames, boxes)
        )
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(BackendError, match="cannot be loaded"):
        load_backend("keypoints", BackendSpec(name="vitpose", weights=str(tmp_path))).estimate(
            iter(frames), track(frames, boxes)
        )


@pytest.mark.parametrize("name", ["sapiens2", "vitpose"])
def test_a_folder_without_config_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackendError, match=r"holds no config\.json"):
        load_backend("keypoints", BackendSpec(name=name, weights=str(tmp_path)))


@pytest.mark.parametrize("name", ["sapiens2", "vitpose"])
def test_without_the_package_the_extra_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module, *rest: None if module == "transformers" else found(module, *rest)
    )
    with pytest.raises(BackendError, match=rf"pip install 'lhmforge\[{name}\]'"):
        load_backend("keypoints", BackendSpec(name=name, weights=str(tmp_path)))
