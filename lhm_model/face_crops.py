"""Grey square crops of heads, as face-recognition networks of the ArcFace kind take them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

FACE_CROP_PX = 128
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def face_crops(images: Float[Tensor, "N 3 h w"], boxes_px: Float[Tensor, "N 4"]) -> Float[Tensor, "N 1 s s"]:
    """Luma of each image inside its box (x0, y0, x1, y1 in pixels), bilinear, differentiable in the images."""
    height, width = images.shape[-2:]
    size = boxes_px.new_tensor((width, height))
    steps = (torch.arange(FACE_CROP_PX, device=images.device) + 0.5) / FACE_CROP_PX
    low, extent = boxes_px[:, :2], boxes_px[:, 2:] - boxes_px[:, :2]
    x = (low[:, :1] + extent[:, :1] * steps) / size[0]
    y = (low[:, 1:] + extent[:, 1:] * steps) / size[1]
    grid = torch.stack((x[:, None, :].expand(-1, FACE_CROP_PX, -1), y[:, :, None].expand(-1, -1, FACE_CROP_PX)), dim=-1)
    grey = (images * images.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    return F.grid_sample(grey, 2.0 * grid.to(grey.dtype) - 1.0, padding_mode="border", align_corners=False)
