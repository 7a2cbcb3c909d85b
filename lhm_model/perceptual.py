"""LPIPS: the learned perceptual distance of Zhang et al. (CVPR 2018), version 0.1 of the calibration.

Two trunks: AlexNet (`alex`, cheap enough for the CPU) and VGG16 (`vgg`). The weights come from files that are read
without running code from them.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lhmforge.datasets.assets import asset_path
from lhmforge.datasets.errors import AssetError

Trunk = Literal["alex", "vgg"]

# Statistics of the trunks' training images, in the network's input range -1 .. 1.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Convolution:
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0  # size of the max pooling (stride 2) before the convolution; 0: none
    tap: bool = False  # its rectified output is compared


_LAYERS: dict[Trunk, tuple[_Convolution, ...]] = {
    "alex": (
        _Convolution(channels=64, kernel=11, stride=4, padding=2, tap=True),
        _Convolution(channels=192, kernel=5, padding=2, pool=3, tap=True),
        _Convolution(channels=384, pool=3, tap=True),
        _Convolution(channels=256, tap=True),
        _Convolution(channels=256, tap=True),
    ),
    "vgg": tuple(
        _Convolution(channels=channels, pool=2 if block and not index else 0, tap=index == count - 1)
        for block, (channels, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)))
        for index in range(count)
    ),
}
SMALLEST_IMAGE_PX: dict[Trunk, int] = {"alex": 31, "vgg": 16}  # a side below leaves a feature map empty


class Perceptual(nn.Module):
    """LPIPS distance of image pairs; its weights are constants. Build it with `load_perceptual`."""

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.plan = _LAYERS[trunk]
        sources = (3, *(layer.channels for layer in self.plan))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, layer.channels, layer.kernel, layer.stride, layer.padding)
            for before, layer in zip(sources, self.plan, strict=False)
        )
        self.heads = nn.ParameterList(torch.zeros(layer.channels) for layer in self.plan if layer.tap)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1))
        self.requires_grad_(False)

    def forward(self, image: Float[Tensor, "N 3 H W"], target: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
        """Distance of each pair of sRGB images in 0..1 (0: equal). Gradients reach whichever image asks for them."""
        assert min(image.shape[-2:]) >= SMALLEST_IMAGE_PX[self.trunk], (
            f"LPIPS {self.trunk} needs images of {SMALLEST_IMAGE_PX[self.trunk]} px or more, got {image.shape[-2:]}"
        )
        total = image.new_zeros(len(image), dtype=torch.float32)
        for head, a, b in zip(self.heads, self._features(image), self._features(target), strict=True):
            total = total + _tap_distance(a, b, head)
        return total

    def _features(self, image: Float[Tensor, "N 3 H W"]) -> list[Tensor]:
        x = (2.0 * image - 1.0 - self.shift) / self.scale
        if x.is_cuda:  # the layout that convolutions in half precision want
            x = x.contiguous(memory_format=torch.channels_last)
        taps = []
        for layer, convolution in zip(self.plan, self.convolutions, strict=True):
            if layer.pool:
                x = F.max_pool2d(x, layer.pool, 2)
            x = F.relu(convolution(x))
            if layer.tap:
                taps.append(x)
        return taps


def load_perceptual(trunk: Trunk, path: Path | None = None) -> Perceptual:
    """LPIPS with the embedded weights of `trunk`, or with those of the user's file.

    A file is a torch file with the lists `trunk` (weight and bias per convolution) and `lin` (one map per tap), or a
    pickle of numpy arrays in the layout of the flax port. Raises `AssetError` when the file is neither or misfits.
    """
    path = path or asset_path(f"lpips_{trunk}")
    if not path.is_file():
        raise AssetError(f"{path}: no such LPIPS weight file")
    data = path.read_bytes()
    weights = _read_torch(data, path) if data[:2] == b"PK" else _read_numpy_pickle(data, path)
    model = Perceptual(trunk)
    _fill(model, weights, path)
    return model.eval()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    convolutions: list[tuple[Tensor, Tensor]]
    heads: list[Tensor]


def _fill(model: Perceptual, weights: _Weights, path: Path) -> None:
    expected = [(m.weight.shape, m.bias.shape) for m in model.convolutions], [h.shape for h in model.heads]
    found = [(w.shape, b.shape) for w, b in weights.convolutions], [h.shape for h in weights.heads]
    if expected != found:
        raise AssetError(f"{path}: these are not the weights of LPIPS {model.trunk}: layer shapes differ")
    with torch.no_grad():
        for module, (weight, bias) in zip(model.convolutions, weights.convolutions, strict=True):
            module.load_state_dict({"weight": weight, "bias": bias})
        for head, values in zip(model.heads, weights.heads, strict=True):
            head.copy_(values)


def _read_torch(data: bytes, path: Path) -> _Weights:
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return _Weights(
            convolutions=[(layer["weight"], layer["bias"]) for layer in content["trunk"]],
            heads=[head.flatten() for head in content["lin"]],
        )
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"{path}: not an LPIPS weight file with the lists 'trunk' and 'lin' ({error})") from error


def _read_numpy_pickle(data: bytes, path: Path) -> _Weights:
    try:
        content = _NumpyOnlyUnpickler(io.BytesIO(data)).load()
        (trunk,) = (value for name, value in content.items() if not name.startswith("NetLinLayer"))
        layers = [trunk[f"Conv_{index}"] for index in range(len(trunk))]
        heads = [content[f"NetLinLayer_{index}"]["Conv_0"]["kernel"] for index in range(len(content) - 1)]
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise AssetError(f"{path}: not an LPIPS weight file ({error})") from error
    return _Weights(
        convolutions=[
            (torch.tensor(layer["kernel"]).permute(3, 2, 0, 1), torch.tensor(layer["bias"])) for layer in layers
        ],
        heads=[torch.tensor(head).flatten() for head in heads],
    )


class _NumpyOnlyUnpickler(pickle.Unpickler):
    """Rebuilds plain numpy arrays and refuses every other object, so that a file cannot run code."""

    _ALLOWED = (("multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def find_class(self, module: str, name: str) -> Any:
        if not module.startswith("numpy") or (module.rpartition(".")[2], name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return {"ndarray": np.ndarray, "dtype": np.dtype, "_reconstruct": _empty_array}[name]


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """What numpy's own reconstruction function does; the pickle fills shape, type and bytes afterwards."""
    return np.ndarray.__new__(kind, shape, np.dtype(code.decode()))


def _tap_distance(
    a: Float[Tensor, "N C h w"], b: Float[Tensor, "N C h w"], head: Float[Tensor, " C"]
) -> Float[Tensor, " N"]:
    """Weighted squared distance of unit feature vectors, meaned over places; float32 from features of any precision.

    Compiled, it is one pass over both maps; normalised maps in float32 are then never written to memory.
    """
    difference = _unit_length(a.float()) - _unit_length(b.float())
    # A sum of products and no einsum: autocast would take that to half precision.
    return (difference.square() * head[:, None, None]).sum(1).mean((1, 2))


def _unit_length(features: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
    # The square root has no gradient at 0, which rectified features of flat areas do reach.
    norm = features.square().sum(1, keepdim=True).clamp(min=1e-20).sqrt()
    return features / (norm + 1e-10)
