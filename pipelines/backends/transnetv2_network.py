"""The network of TransNetV2 with the parameter names of its published state dict. Inference only.

Three stages of dilated 3D convolutions (each followed by 2x2 pooling in space) give features per frame; beside them
two tables say how similar each frame is to its 50 neighbours on both sides, by features and by colour histogram. A
small classifier on all three gives the logit of a transition. Soucek and Lokoc (2020), sections 3.1 to 3.3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

FRAME_WIDTH, FRAME_HEIGHT = 48, 27
_FILTERS = (16, 32, 64)  # per stage and branch
_DILATIONS = (1, 2, 4, 8)
_NEIGHBOURS = 101
_SIMILARITY_FEATURES = 128
_BINS = 512  # 8 levels per colour channel


class TransNetV2(nn.Module):
    """Frames to one logit per frame, "a single transition frame"; the many-hot head is loaded but not used."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *(4 * filters for filters in _FILTERS)]
        self.SDDCNN = nn.ModuleList(
            _Stage(width, filters) for width, filters in zip(widths[:-1], _FILTERS, strict=True)
        )
        self.frame_sim_layer = _FrameSimilarity(sum(widths[1:]))
        self.color_hist_layer = _ColourSimilarity()
        pooled = widths[-1] * (FRAME_HEIGHT // 8) * (FRAME_WIDTH // 8)
        self.fc1 = nn.Linear(pooled + 2 * _SIMILARITY_FEATURES, 1024)
        self.cls_layer1 = nn.Linear(1024, 1)
        self.cls_layer2 = nn.Linear(1024, 1)

    def forward(self, frames: UInt8[Tensor, "B T 27 48 3"]) -> Float[Tensor, "B T"]:
        x = frames.permute(0, 4, 1, 2, 3).to(self.fc1.weight.dtype) / 255
        stages: list[Tensor] = []
        for stage in self.SDDCNN:
            x = stage(x)
            stages.append(x)
        # The classifier was trained on height, width, channel flattened in this order.
        features = x.permute(0, 2, 3, 4, 1).flatten(2)
        joined = torch.cat([self.color_hist_layer(frames), self.frame_sim_layer(stages), features], dim=2)
        return self.cls_layer1(functional.relu(self.fc1(joined))).squeeze(2)


class _Stage(nn.Module):
    """Two dilated cells with a shortcut around the second, then pooling of 2x2 px."""

    def __init__(self, width_in: int, filters: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([_DilatedCell(width_in, filters), _DilatedCell(4 * filters, filters)])

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D T h w"]:
        first = functional.relu(self.DDCNN[0](x))
        return functional.avg_pool3d(functional.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


class _DilatedCell(nn.Module):
    """Four separable convolutions that reach 1, 2, 4 and 8 frames far, side by side, normalised together."""

    def __init__(self, width_in: int, filters: int) -> None:
        super().__init__()
        for dilation in _DILATIONS:
            setattr(self, f"Conv3D_{dilation}", _SeparableConv(width_in, filters, dilation))
        self.bn = nn.BatchNorm3d(4 * filters, eps=1e-3)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D T H W"]:
        branches = [getattr(self, f"Conv3D_{dilation}")(x) for dilation in _DILATIONS]
        return self.bn(torch.cat(branches, dim=1))


class _SeparableConv(nn.Module):
    """3x3 in space, then 3 in time."""

    def __init__(self, width_in: int, filters: int, dilation: int) -> None:
        super().__init__()
        in_space = nn.Conv3d(width_in, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False)
        in_time = nn.Conv3d(
            2 * filters, filters, (3, 1, 1), dilation=(dilation, 1, 1), padding=(dilation, 0, 0), bias=False
        )
        self.layers = nn.ModuleList([in_space, in_time])

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D T H W"]:
        return self.layers[1](self.layers[0](x))


class _FrameSimilarity(nn.Module):
    """Similarity of a frame's features to those of its neighbours."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width_in, _SIMILARITY_FEATURES)
        self.fc = nn.Linear(_NEIGHBOURS, _SIMILARITY_FEATURES)

    def forward(self, stages: list[Tensor]) -> Float[Tensor, "B T 128"]:
        means = torch.cat([stage.mean(dim=(3, 4)) for stage in stages], dim=1).transpose(1, 2)
        return functional.relu(self.fc(_to_neighbours(self.projection(means))))


class _ColourSimilarity(nn.Module):
    """Similarity of a frame's colour histogram to those of its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(_NEIGHBOURS, _SIMILARITY_FEATURES)

    def forward(self, frames: UInt8[Tensor, "B T 27 48 3"]) -> Float[Tensor, "B T 128"]:
        levels = frames.long() >> 5
        bins = ((levels[..., 0] << 6) | (levels[..., 1] << 3) | levels[..., 2]).flatten(2)
        dtype = self.fc.weight.dtype
        histogram = torch.zeros(*bins.shape[:2], _BINS, dtype=dtype, device=bins.device)
        histogram.scatter_add_(2, bins, torch.ones_like(bins, dtype=dtype))
        return functional.relu(self.fc(_to_neighbours(histogram)))


def _to_neighbours(vectors: Float[Tensor, "B T D"]) -> Float[Tensor, "B T 101"]:
    """Cosine of each frame's vector with those of the 50 frames before it, its own, and the 50 after; 0 outside."""
    unit = functional.normalize(vectors, dim=2)
    reach = _NEIGHBOURS // 2
    table = functional.pad(unit @ unit.transpose(1, 2), (reach, reach))
    count = vectors.shape[1]
    columns = torch.arange(count, device=vectors.device)[:, None] + torch.arange(_NEIGHBOURS, device=vectors.device)
    return table.gather(2, columns.expand(len(vectors), -1, -1))
