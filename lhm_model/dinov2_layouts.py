"""The key layouts that DINOv2-with-registers weights come in, all brought to that of its authors' files.

Known: the authors' torch-hub files, timm (`vit_*_patch14_reg4_dinov2`), transformers (`Dinov2WithRegistersModel`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_WRAPPERS = ("module.", "backbone.", "teacher.backbone.", "dinov2_with_registers.", "model.")
_TRANSFORMERS = (
    (r"embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.(norm[12]|mlp\.fc[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
)
_QUERY = re.compile(r"encoder\.layer\.(\d+)\.attention\.attention\.query\.(weight|bias)")


def author_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` under the authors' names; tensors that belong to no known layout keep theirs (the caller names them)."""
    plain = {_unwrapped(name): tensor for name, tensor in state.items()}
    if "embeddings.cls_token" in plain:
        plain = _from_transformers(plain)
    elif "reg_token" in plain:
        plain = _from_timm(plain)
    plain.pop("mask_token", None)  # used in DINOv2's own training only
    return plain


def _unwrapped(name: str) -> str:
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def _from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm adds the class token's position to the token itself, so its table has one row less."""
    out = {"register_tokens" if name == "reg_token" else name: tensor for name, tensor in state.items()}
    if "pos_embed" in out and "cls_token" in out:
        out["pos_embed"] = torch.cat([torch.zeros_like(out["cls_token"]), out["pos_embed"]], dim=1)
    return out


def _from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers keeps query, key and value apart."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        query = _QUERY.fullmatch(name)
        if query:
            parts = [state.get(name.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
            found = [part for part in parts if part is not None]
            out[f"blocks.{query[1]}.attn.qkv.{query[2]}"] = torch.cat(found)
        elif not re.search(r"\.attention\.attention\.(key|value)\.", name):
            out[_renamed(name)] = tensor
    return out


def _renamed(name: str) -> str:
    for pattern, replacement in _TRANSFORMERS:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return name
