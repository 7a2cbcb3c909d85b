"""Runs our modules on reference tensors of the public release and measures how far the outputs are apart.

A reference file (safetensors) holds `weight.*` under the release's names, `in.*` and `out.*`; every size is read from
shapes, and the number of head points from the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lhmforge.datasets.errors import CheckpointError
from lhmforge.lhm_model.config import GaussianHeadConfig
from lhmforge.lhm_model.embeddings import GlobalModulation, PointEmbed
from lhmforge.lhm_model.encoder_dinov2 import FusionHead
from lhmforge.lhm_model.gaussian_head import GaussianHead, GaussianMLP
from lhmforge.lhm_model.token_layout import TokenLayout
from lhmforge.lhm_model.transformer import BodyHeadTransformer, TransformerConfig
from lhmforge.lhm_model.weight_files import read_metadata, read_weight_file
from lhmforge.lhm_model.weights import import_release

TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """Distance of one output; `relative` is the largest absolute difference over the largest reference magnitude."""

    name: str
    relative: float
    absolute: float

    @property
    def passed(self) -> bool:
        return self.relative <= TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSizes:
    """What the tensors of a reference file say about the model they came from."""

    width: int
    num_heads: int
    num_blocks: int
    feed_forward: int
    body_channels: int
    head_channels: int
    context_channels: int
    modulation_hidden: int
    num_frequencies: int
    num_taps: int
    gaussian_sizes: tuple[int, ...]
    layout: TokenLayout
    steps: tuple[int, ...]


class ReferenceModel(nn.Module):
    """The parts of LHM that a reference file covers, under the names they have in `LHM`."""

    def __init__(self, sizes: ReferenceSizes) -> None:
        super().__init__()
        self.transformer = BodyHeadTransformer(
            TransformerConfig(
                width=sizes.width,
                num_heads=sizes.num_heads,
                num_blocks=sizes.num_blocks,
                context_channels=sizes.context_channels,
                feed_forward=sizes.feed_forward,
                double_context=True,  # the release's quirk
            ),
            kernel="sdpa",
        )
        self.point_embed = PointEmbed(sizes.width, sizes.num_frequencies)
        self.modulation = GlobalModulation(sizes.body_channels, sizes.modulation_hidden, 2 * sizes.width)
        self.gaussian_mlp = GaussianMLP(sizes.gaussian_sizes)
        self.gaussian_head = GaussianHead(sizes.gaussian_sizes[-1], GaussianHeadConfig())
        self.head_encoder = nn.ModuleDict({"fusion": FusionHead(sizes.head_channels, sizes.num_taps)})


def verify_reference(path: Path) -> list[OutputError]:
    """One row per `out.*` tensor of the file; raises `CheckpointError` when the file is not such a file."""
    tensors, metadata = read_weight_file(path), read_metadata(path)
    sizes = reference_sizes(tensors, metadata, path)
    model = ReferenceModel(sizes)
    weights = {name.removeprefix("weight."): tensor for name, tensor in tensors.items() if name.startswith("weight.")}
    report = import_release(model, weights)
    if not report.complete:
        raise CheckpointError(
            f"{path}: weights do not fit: missing {report.missing[:4]}, unexpected {report.unexpected[:4]}, "
            f"wrong {report.wrong_shape[:4]}"
        )
    outputs = run_reference(model, tensors, sizes)
    expected = {name.removeprefix("out."): tensor for name, tensor in tensors.items() if name.startswith("out.")}
    unknown = sorted(expected.keys() - outputs.keys())
    if unknown:
        raise CheckpointError(f"{path}: no module of ours computes the outputs {unknown}")
    return [_compare(name, outputs[name], expected[name]) for name in sorted(expected)]


@torch.no_grad()
def run_reference(model: ReferenceModel, tensors: Mapping[str, Tensor], sizes: ReferenceSizes) -> dict[str, Tensor]:
    """All outputs that a reference file may hold, by name, from its inputs, in float32 on the CPU."""
    model = model.float().eval()
    inputs = {name.removeprefix("in."): tensor.float() for name, tensor in tensors.items() if name.startswith("in.")}
    taps = tuple(inputs[f"head_tap{index}"] for index in range(sizes.num_taps))
    head_tokens = model.head_encoder["fusion"](taps)
    modulation, points = model.modulation(inputs["body_tokens"]), model.point_embed(inputs["points"])
    tokens = model.transformer(
        points=points,
        body_tokens=inputs["body_tokens"],
        head_tokens=head_tokens,
        modulation=modulation,
        layout=sizes.layout,
    )
    features = model.gaussian_mlp(tokens)
    outputs = {"head_tokens": head_tokens, "modulation": modulation, "point_embed": points}
    outputs |= {"tokens": tokens, "gs_features": features}
    for step in sizes.steps:
        model.gaussian_head.set_step(step)
        gaussians = model.gaussian_head(features)
        outputs |= {
            f"step{step}.offset_xyz": gaussians.offsets,
            f"step{step}.scaling": gaussians.scales,
            f"step{step}.rotation": gaussians.rotations,
            f"step{step}.opacity": gaussians.opacities[..., None],
            f"step{step}.shs": gaussians.colours[..., None, :],
        }
    return outputs


def reference_sizes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> ReferenceSizes:
    """Sizes from shapes; the metadata's `num_head_points` splits the points. Raises `CheckpointError`."""
    try:
        return _sizes(tensors, metadata)
    except KeyError as error:
        raise CheckpointError(f"{path}: not a reference file, {error} is missing") from error


def _sizes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> ReferenceSizes:
    first = "weight.transformer.layers.0.body_dit."
    width = tensors[first + "attn.to_q.weight"].shape[0]
    mlp = sorted(int(m[1]) for n in tensors if (m := re.fullmatch(r"weight\.gs_mlp\.(\d+)\.weight", n)))
    mlp_shapes = [tensors[f"weight.gs_mlp.{index}.weight"].shape for index in mlp]
    num_points, num_head_points = tensors["in.points"].shape[1], int(metadata["num_head_points"])
    return ReferenceSizes(
        width=width,
        num_heads=width // tensors[first + "attn.norm_q.weight"].shape[0],
        num_blocks=1 + max(int(m[1]) for n in tensors if (m := re.match(r"weight\.transformer\.layers\.(\d+)\.", n))),
        feed_forward=tensors[first + "ff.net.0.proj.weight"].shape[0],
        body_channels=tensors["in.body_tokens"].shape[2],
        head_channels=tensors["in.head_tap0"].shape[2],
        context_channels=tensors["weight.transformer.linear_cond_proj.weight"].shape[1],
        modulation_hidden=tensors["weight.motion_embed_mlp.0.weight"].shape[0],
        num_frequencies=(tensors["weight.pcl_embed.mlp.weight"].shape[1] - 3) // 6,
        num_taps=sum(name.startswith("in.head_tap") for name in tensors),
        gaussian_sizes=(mlp_shapes[0][1], *(shape[0] for shape in mlp_shapes)),
        layout=TokenLayout(
            body_points=num_points - num_head_points,
            head_points=num_head_points,
            body_tokens=tensors["in.body_tokens"].shape[1],
            head_tokens=tensors["in.head_tap0"].shape[1],
        ),
        steps=tuple(sorted({int(m[1]) for n in tensors if (m := re.match(r"out\.step(\d+)\.", n))})),
    )


def _compare(name: str, ours: Tensor, reference: Tensor) -> OutputError:
    if ours.shape != reference.shape:
        raise CheckpointError(f"out.{name}: the file has shape {tuple(reference.shape)}, ours is {tuple(ours.shape)}")
    difference = float((ours.double() - reference.double()).abs().max())
    magnitude = float(reference.double().abs().max())
    relative = difference / magnitude if magnitude > 0.0 else difference
    return OutputError(name=name, relative=relative, absolute=difference)
