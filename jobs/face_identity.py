"""Who a rendered face is: the embedded face backend of curation or the user's face network, for `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lhmforge.lhm_model.evaluate import FaceEmbedder
from lhmforge.lhm_model.face_crops import face_crops
from lhmforge.lhm_model.face_network import load_face_network

_HEAD_PX = 160.0  # heads of small renderings are enlarged to this height: the detector misses smaller ones
_MAX_ENLARGEMENT = 8.0


def face_embedder(name: str) -> FaceEmbedder | None:
    """`sface` (embedded), `none`, or the path of the user's `arcface_resnet18.pth`; see `FaceEmbedder`.

    Raises `AssetError` or `CheckpointError` when the weights cannot be had or read.
    """
    if name == "none":
        return None
    return _sface_pairs() if name == "sface" else _network_pairs(Path(name))


def _network_pairs(path: Path) -> FaceEmbedder:
    network = load_face_network(path)

    def embed(rendered: Tensor, true: Tensor, boxes: Tensor) -> Tensor:
        network.to(rendered.device)
        vectors = [network(face_crops(images.float().clamp(0, 1), boxes.float())) for images in (rendered, true)]
        return torch.nn.functional.normalize(torch.stack(vectors, dim=1), dim=-1)

    return embed


def _sface_pairs() -> FaceEmbedder:
    from lhmforge.pipelines.backends.registry import load_backend
    from lhmforge.pipelines.backends.roles import BackendSpec
    from lhmforge.pipelines.backends.sface import SFaceEmbedder

    backend = cast(SFaceEmbedder, load_backend("face", BackendSpec(name="sface")))

    def embed(rendered: Tensor, true: Tensor, boxes: Tensor) -> Tensor:
        pairs = [_head_pictures((true[i], rendered[i]), boxes[i]) for i in range(len(boxes))]
        whole = np.array([(0, 0, pair[0].shape[1], pair[0].shape[0]) for pair in pairs], np.float32)
        vectors = backend.embed_pairs([pair[0] for pair in pairs], [pair[1] for pair in pairs], whole)
        return torch.from_numpy(vectors[:, ::-1].copy())

    return embed


def _head_pictures(
    images: tuple[Float[Tensor, "3 h w"], Float[Tensor, "3 h w"]], box: Float[Tensor, 4]
) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The surroundings of the head in both images (half a box more on each side), enlarged alike."""
    height, width = images[0].shape[-2:]
    x0, y0, x1, y1 = box.tolist()
    pad_x, pad_y = (x1 - x0) / 2, (y1 - y0) / 2
    left, top = max(0, int(x0 - pad_x)), max(0, int(y0 - pad_y))
    right, bottom = min(width, max(left + 2, int(x1 + pad_x) + 1)), min(height, max(top + 2, int(y1 + pad_y) + 1))
    scale = min(_MAX_ENLARGEMENT, max(1.0, _HEAD_PX / max(y1 - y0, 1.0)))
    pictures = []
    for image in images:
        cut = image[None, :, top:bottom, left:right].float().cpu()
        large = torch.nn.functional.interpolate(cut, scale_factor=scale, mode="bicubic", align_corners=False)
        pictures.append((large[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
    return pictures
