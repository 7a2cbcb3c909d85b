"""The face identity network of the release: ResNet-18 with ArcFace training, on grey crops of 128 pixels.

Structure: Deng et al., "ArcFace" (CVPR 2019), in the variant whose weights are spread as `arcface_resnet18.pth` (no
squeeze-and-excitation). The file is the user's; its licence is that of its source.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lhmforge.datasets.errors import CheckpointError
from lhmforge.lhm_model.weight_files import read_weight_file

CROP_PX = 128
NUM_FEATURES = 512
_WIDTHS = (64, 128, 256, 512)
_BLOCKS_PER_STAGE = 2
_HELP = "it is `arcface_resnet18.pth` of the GFPGAN / LHM releases (licence: see there); set face_network to its path"

Layer = Callable[[Tensor], Tensor]


class FaceNetwork(nn.Module):
    """Grey crops in 0..1 -> identity features; constants. Build it with `load_face_network`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.prelu = nn.PReLU()
        before = _WIDTHS[0]
        for index, width in enumerate(_WIDTHS, start=1):
            blocks = []
            for number in range(_BLOCKS_PER_STAGE):
                blocks.append(_Block(before, width, stride=2 if index > 1 and number == 0 else 1))
                before = width
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
        self.bn4 = nn.BatchNorm2d(before)
        side = CROP_PX // 2 ** len(_WIDTHS)
        self.fc5 = nn.Linear(before * side * side, NUM_FEATURES)
        self.bn5 = nn.BatchNorm1d(NUM_FEATURES)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FaceNetwork:
        """Stays in evaluation mode: its batch statistics are constants of the file."""
        return super().train(False)

    def forward(self, grey: Float[Tensor, "N 1 128 128"]) -> Float[Tensor, "N 512"]:
        """Features of crops in 0..1; gradients reach the crops."""
        x = F.max_pool2d(self.prelu(self.bn1(self.conv1(2.0 * grey - 1.0))), 2)
        for index in range(1, len(_WIDTHS) + 1):
            x = self.get_submodule(f"layer{index}")(x)
        out: Tensor = self.bn5(self.fc5(self.bn4(x).flatten(1)))
        return out


class _Block(nn.Module):
    def __init__(self, before: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, before, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D i j"]:
        inner = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.prelu(self.bn2(self.conv2(inner)) + shortcut)
        return out


def load_face_network(path: Path) -> FaceNetwork:
    """The network with the user's weights; raises `CheckpointError` saying what is wrong and where to get the file."""
    try:
        state = read_weight_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_HELP}") from error
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    network = FaceNetwork()
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    wrong = [name for name in own.keys() & state.keys() if own[name] != state[name].shape]
    missing = sorted(name for name in own.keys() - state.keys() if not name.endswith("num_batches_tracked"))
    unexpected = sorted(state.keys() - own.keys())
    if missing or unexpected or wrong:
        raise CheckpointError(
            f"{path}: not the face network; missing {missing[:4]}, unexpected {unexpected[:4]}, wrong shape "
            f"{sorted(wrong)[:4]}; {_HELP}"
        )
    network.load_state_dict(state, strict=False)
    return network
