"""LPIPS: the embedded weights load and fit, distances behave, and foreign files are refused without running them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lhmforge.datasets.assets import asset_path
from lhmforge.datasets.errors import AssetError
from lhmforge.lhm_model.perceptual import SMALLEST_IMAGE_PX, Trunk, load_perceptual


def photo(seed: int = 0, size: int = 64) -> torch.Tensor:
    """A smooth random picture: noise at three scales."""
    generator = torch.Generator().manual_seed(seed)
    layers = [
        torch.nn.functional.interpolate(
            torch.rand(1, 3, n, n, generator=generator), (size, size), mode="bilinear", align_corners=False
        )
        for n in (3, 8, 24)
    ]
    return torch.stack(layers).mean(0)


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_distance_grows_with_damage_and_is_symmetric(trunk: Trunk) -> None:
    perceptual = load_perceptual(trunk)
    image = photo()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    damaged = [(image + amount * noise).clamp(0, 1) for amount in (0.0, 0.02, 0.08, 0.3)]
    distances = [perceptual(image, other).item() for other in damaged]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert 0.05 < distances[-1] < 2
    torch.testing.assert_close(perceptual(image, damaged[2]), perceptual(damaged[2], image))
    assert all((head >= 0).all() for head in perceptual.heads)


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_layers_and_taps_have_the_published_shapes(trunk: Trunk) -> None:
    perceptual = load_perceptual(trunk)
    shapes = [tuple(tap.shape[1:]) for tap in perceptual._features(photo())]
    expected = {
        "alex": [(64, 15, 15), (192, 7, 7), (384, 3, 3), (256, 3, 3), (256, 3, 3)],
        "vgg": [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)],
    }
    assert shapes == expected[trunk]
    assert sum(p.numel() for p in perceptual.convolutions.parameters()) == {"alex": 2469696, "vgg": 14714688}[trunk]
    smallest = SMALLEST_IMAGE_PX[trunk]
    assert torch.isfinite(perceptual(photo(size=smallest), photo(1, size=smallest))).all()
    with pytest.raises(AssertionError, match="px or more"):
        perceptual(photo(size=smallest - 1), photo(size=smallest - 1))


def test_gradients_reach_the_image_and_not_the_weights() -> None:
    perceptual = load_perceptual("alex")
    image = torch.ones(1, 3, 48, 48, requires_grad=True)  # flat white: rectified features of length 0 occur
    perceptual(image, photo(size=48)).sum().backward()
    assert torch.isfinite(image.grad).all() and image.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in perceptual.parameters())


def test_both_file_forms_give_the_same_network(tmp_path: Path) -> None:
    """The numpy pickle form of the AlexNet weights, written here, against the torch form of the asset."""
    stored = torch.load(asset_path("lpips_alex"), weights_only=True)
    table: dict[str, object] = {
        "AlexNet_0": {
            f"Conv_{i}": {"kernel": layer["weight"].permute(2, 3, 1, 0).numpy().copy(), "bias": layer["bias"].numpy()}
            for i, layer in enumerate(stored["trunk"])
        }
    }
    for i, head in enumerate(stored["lin"]):
        table[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": head.permute(2, 3, 1, 0).numpy().copy()}}
    path = tmp_path / "alex.ckpt"
    path.write_bytes(pickle.dumps(table, protocol=4))
    image, other = photo(), photo(1)
    torch.testing.assert_close(load_perceptual("alex", path)(image, other), load_perceptual("alex")(image, other))


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.ckpt", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"VGG16_0": _Evil(marker)}))
    with pytest.raises(AssetError, match="mkdir"):
        load_perceptual("vgg", path)
    assert not marker.exists()


def test_foreign_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="no such"):
        load_perceptual("vgg", tmp_path / "absent.pt")
    wrong = tmp_path / "wrong.pt"
    torch.save({"weights": torch.zeros(3)}, wrong)
    torn = tmp_path / "torn.pt"
    torn.write_bytes(asset_path("lpips_alex").read_bytes()[:5000])
    arrays = tmp_path / "arrays.ckpt"
    arrays.write_bytes(pickle.dumps({"a": np.zeros(3)}))
    for path in (wrong, torn, arrays):
        with pytest.raises(AssetError, match=path.name):
            load_perceptual("alex", path)
    with pytest.raises(AssetError, match="shapes differ"):
        load_perceptual("vgg", asset_path("lpips_alex"))
