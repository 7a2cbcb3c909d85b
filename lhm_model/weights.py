"""Maps weights of the public LHM release (names of its safetensors files) onto our modules.

Our modules fuse some of the release's tensors (query, key and value projections; the two RMS gains), so a map entry
says how one of ours is put together from several of theirs. Nothing is dropped in silence: the report lists every
tensor that found no place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lhmforge.lhm_model.embeddings import frequency_basis

# Ours (a regular expression over names without .weight / .bias) -> the release's parts, stacked in this order.
_FUSED: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"transformer\.blocks\.(\d+)\.(head|body)\.qkv", (
        r"transformer.layers.\1.\2_dit.attn.to_q", r"transformer.layers.\1.\2_dit.attn.to_k",
        r"transformer.layers.\1.\2_dit.attn.to_v")),
    (r"transformer\.blocks\.(\d+)\.(head|body)\.context_qkv", (
        r"transformer.layers.\1.\2_dit.attn.add_q_proj", r"transformer.layers.\1.\2_dit.attn.add_k_proj",
        r"transformer.layers.\1.\2_dit.attn.add_v_proj")),
    (r"transformer\.blocks\.(\d+)\.(head|body)\.modulation", (r"transformer.layers.\1.\2_dit.norm1.linear",)),
    (r"transformer\.blocks\.(\d+)\.(head|body)\.context_modulation", (
        r"transformer.layers.\1.\2_dit.norm1_context.linear",)),
    (r"transformer\.blocks\.(\d+)\.(head|body)\.out", (r"transformer.layers.\1.\2_dit.attn.to_out.0",)),
    (r"transformer\.blocks\.(\d+)\.(head|body)\.context_out", (r"transformer.layers.\1.\2_dit.attn.to_add_out",)),
    (r"transformer\.blocks\.(\d+)\.(head|body)\.feed_forward\.up", (r"transformer.layers.\1.\2_dit.ff.net.0.proj",)),
    (r"transformer\.blocks\.(\d+)\.(head|body)\.feed_forward\.down", (r"transformer.layers.\1.\2_dit.ff.net.2",)),
    (r"transformer\.blocks\.(\d+)\.(head|body)\.context_feed_forward\.up", (
        r"transformer.layers.\1.\2_dit.ff_context.net.0.proj",)),
    (r"transformer\.blocks\.(\d+)\.(head|body)\.context_feed_forward\.down", (
        r"transformer.layers.\1.\2_dit.ff_context.net.2",)),
    (r"transformer\.norm", ("transformer.norm",)),
    (r"transformer\.context_proj", ("transformer.linear_cond_proj",)),
    (r"point_embed\.linear", ("pcl_embed.mlp",)),
    (r"point_embed\.norm", ("pcl_embed.norm",)),
    (r"modulation\.hidden", ("motion_embed_mlp.0",)),
    (r"modulation\.out", ("motion_embed_mlp.2",)),
    (r"head_encoder\.fusion\.projects\.(\d+)", (r"encoder.fusion_head.projects.\1",)),
    (r"head_encoder\.fusion\.output", ("encoder.fusion_head.output_conv",)),
    (r"head_encoder\.backbone\.(.+)", (r"encoder.model.\1",)),
    (r"gaussian_head\.offset", ("renderer.gs_net.out_layers.xyz",)),
    (r"gaussian_head\.scale", ("renderer.gs_net.out_layers.scaling",)),
    (r"gaussian_head\.rotation", ("renderer.gs_net.out_layers.rotation",)),
    (r"gaussian_head\.opacity", ("renderer.gs_net.out_layers.opacity",)),
    (r"gaussian_head\.colour", ("renderer.gs_net.out_layers.shs",)),
)  # fmt: skip
_GAINS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"transformer\.blocks\.(\d+)\.(head|body)\.head_norm\.gain", (
        r"transformer.layers.\1.\2_dit.attn.norm_q.weight", r"transformer.layers.\1.\2_dit.attn.norm_k.weight")),
    (r"transformer\.blocks\.(\d+)\.(head|body)\.context_head_norm\.gain", (
        r"transformer.layers.\1.\2_dit.attn.norm_added_q.weight",
        r"transformer.layers.\1.\2_dit.attn.norm_added_k.weight")),
)  # fmt: skip
# Constants, and networks that this project loads from their own files: read, named in the report, not imported.
_NOT_WEIGHTS = ("pcl_embed.basis", "encoder.model.mask_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What a foreign checkpoint gave; every list holds tensor names, in order."""

    loaded: tuple[str, ...]  # ours
    missing: tuple[str, ...]  # ours that no foreign tensor fills
    unexpected: tuple[str, ...]  # theirs without a place here
    wrong_shape: tuple[str, ...]  # "name: found (..), expected (..)"
    constants: tuple[str, ...]  # theirs that hold no trained value, checked where we have the same constant

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.wrong_shape)


def release_names(name: str) -> tuple[str, ...]:
    """The release's tensors that make up our parameter `name`, in stacking order; empty when it has no counterpart."""
    for pattern, parts in _GAINS:
        match = re.fullmatch(pattern, name)
        if match:
            return tuple(match.expand(part) for part in parts)
    match = re.fullmatch(r"gaussian_mlp\.layers\.(\d+)\.(weight|bias)", name)
    if match:  # theirs is a Sequential with an activation after each linear layer
        return (f"renderer.mlp_net.layers.{2 * int(match[1])}.{match[2]}",)
    stem, _, leaf = name.rpartition(".")
    for pattern, parts in _FUSED:
        whole = re.fullmatch(pattern, name) if pattern.startswith(r"head_encoder\.backbone") else None
        match = whole or re.fullmatch(pattern, stem)
        if match and whole:
            return tuple(match.expand(part) for part in parts)
        if match:
            return tuple(f"{match.expand(part)}.{leaf}" for part in parts)
    return ()


def import_release(module: nn.Module, foreign: Mapping[str, Tensor]) -> ImportReport:
    """Copies `foreign` (released names) into `module`, whose parameter names are those of `LHM` or a part of it.

    Parameters without a counterpart keep their values and are listed; the caller decides what to refuse.
    """
    foreign = _canonical_names(foreign)
    loaded, missing, wrong = [], [], []
    used: set[str] = set()
    for name, parameter in module.named_parameters():
        names = release_names(name)
        found = [foreign[part] for part in names if part in foreign]
        used.update(part for part in names if part in foreign)
        if not names or len(found) < len(names):
            missing.append(name)
            continue
        fused = _fuse(found, stack=name.endswith(".gain"))
        if fused.numel() != parameter.numel() or _squeezed(fused) != _squeezed(parameter):
            wrong.append(f"{name}: found {tuple(fused.shape)}, expected {tuple(parameter.shape)}")
            continue
        with torch.no_grad():
            parameter.copy_(fused.reshape(parameter.shape))
        loaded.append(name)
    rest = [name for name in foreign if name not in used]
    constants = tuple(sorted(name for name in rest if name in _NOT_WEIGHTS))
    wrong += _check_basis(foreign)
    return ImportReport(
        loaded=tuple(loaded),
        missing=tuple(missing),
        unexpected=tuple(sorted(set(rest) - set(constants))),
        wrong_shape=tuple(wrong),
        constants=constants,
    )


def to_release_names(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The inverse map, for files that the release's own code can read: our named parameters under its names."""
    out: dict[str, Tensor] = {}
    for name, parameter in parameters:
        names = release_names(name)
        value = parameter.detach().clone()
        parts = value.unbind(0) if name.endswith(".gain") else value.chunk(len(names), dim=0) if names else ()
        for part_name, part in zip(names, parts, strict=True):
            is_convolution = "fusion_head" in part_name and part_name.endswith(".weight")
            out[part_name] = part[..., None, None].contiguous() if is_convolution else part.contiguous()
    return out


def _canonical_names(foreign: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undoes differences between files: a wrapper prefix, the short names of reference files, renamed parts."""
    rules: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
        (r"^module\.", lambda m: ""),
        (r"^fusion_head\.", lambda m: "encoder.fusion_head."),
        (r"^gs_net\.", lambda m: "renderer.gs_net."),
        (r"^(?:renderer\.)?gs_mlp\.(\d+)\.", lambda m: f"renderer.mlp_net.layers.{m[1]}."),
    )
    renamed = {}
    for name, tensor in foreign.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _fuse(parts: list[Tensor], *, stack: bool) -> Tensor:
    return torch.stack(parts) if stack else torch.cat(parts) if len(parts) > 1 else parts[0]


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """Shape without the trailing ones of a 1x1 convolution."""
    shape = tuple(tensor.shape)
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


def _check_basis(foreign: Mapping[str, Tensor]) -> list[str]:
    basis = foreign.get("pcl_embed.basis")
    if basis is None:
        return []
    expected = frequency_basis(basis.shape[1] // 3)
    if basis.shape != expected.shape or not torch.allclose(basis.float(), expected, rtol=1e-5):
        return ["pcl_embed.basis: not the frequencies 2^k pi per axis that this model computes with"]
    return []
