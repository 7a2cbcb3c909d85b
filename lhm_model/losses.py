"""The training losses of LHM (arXiv 2503.10625, section 3.4) in the form that its public release uses.

Images are compared inside the true matte, both laid on white. Regularisers act on the canonical Gaussians: ASAP keeps
splats round (hinge on the ratio of the longest to the shortest axis), ACAP keeps them near the body (hinge on the
length of the offset). A weight is a number or a ramp `start_step:start_value:end_value:end_step`, linear between the
steps and constant outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lhmforge.datasets.batch import Batch
from lhmforge.datasets.body.joints import JOINT_NAMES
from lhmforge.datasets.errors import ConfigError
from lhmforge.lhm_model.face_crops import face_crops
from lhmforge.lhm_model.model import LHMOutput
from lhmforge.lhm_model.perceptual import Perceptual

Network = TypeVar("Network")
FaceFeatures = Callable[[Tensor], Tensor]  # grey face crops [N, 1, 128, 128] in 0..1 -> features [N, D]

_HEAD = ("neck", "head", "jaw", "eye")
_LOWER = ("pelvis", "hip", "knee", "ankle", "foot")
_HANDS = ("thumb", "index", "middle", "ring", "pinky", "wrist")
_UPPER = ("pelvis", "spine", "collar", "shoulder", "elbow", *_HANDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartWeights:
    """Weights of body parts in ASAP; hands are upper body too, the pelvis is upper and lower, as in the release."""

    head: float = 1.0
    lower_body: float = 100.0
    upper_body: float = 1000.0
    hands: float = 10000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """Weights of the terms (numbers or ramps, see the module) and the bounds of the hinges."""

    colour: str = "1"
    perceptual: str = "1"
    mask: str = "0:2:1:3000"
    asap: str = "0:1:10:3000"
    acap: str = "0:1:1000:3000"
    face_id: str = "0"
    asap_max_ratio: float = 5.0
    asap_parts: PartWeights = PartWeights()
    acap_free_m: float = 1.8 / 32

    def __post_init__(self) -> None:
        for name in ("colour", "perceptual", "mask", "asap", "acap", "face_id"):
            value = getattr(self, name)
            try:
                ramp_value(value, 0)
            except ConfigError as error:
                raise ConfigError(f"loss.{name}: {error}") from None
        if self.asap_max_ratio < 1 or self.acap_free_m < 0:
            raise ConfigError("loss: asap_max_ratio must be at least 1 and acap_free_m must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class PointParts:
    """Which body parts each query point belongs to; parts overlap."""

    head: Bool[Tensor, " N"]
    lower_body: Bool[Tensor, " N"]
    upper_body: Bool[Tensor, " N"]
    hands: Bool[Tensor, " N"]

    @classmethod
    def from_skinning(cls, weights: Float[Tensor, "N 55"]) -> PointParts:
        """Parts by each point's strongest joint (for an LHM: `model.skinner.weights`)."""
        dominant = weights.argmax(-1)

        def of(names: tuple[str, ...]) -> Bool[Tensor, " N"]:
            member = torch.tensor([any(name in joint for name in names) for joint in JOINT_NAMES])
            return member.to(weights.device)[dominant]

        return cls(head=of(_HEAD), lower_body=of(_LOWER), upper_body=of(_UPPER), hands=of(_HANDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The weighted sum, and each term before its weight (terms of weight 0 are not computed and absent)."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


def compute_losses(
    output: LHMOutput,
    batch: Batch,
    *,
    config: LossConfig,
    step: int,
    parts: PointParts,
    perceptual: Perceptual | None = None,
    face_features: FaceFeatures | None = None,
) -> Losses:
    """All terms at optimiser step `step`, in float32.

    Raises `ConfigError` where a term with a weight lacks its network (`perceptual`, `face_features`).
    """
    alpha = batch.target_alpha
    image, target = on_white(output.views.colour, alpha), on_white(batch.target_image, alpha)
    terms: dict[str, Callable[[], Tensor]] = {
        "colour": lambda: (image - target).abs().mean(),
        "perceptual": lambda: _needed(perceptual, "perceptual")(image.flatten(0, 1), target.flatten(0, 1)).mean(),
        "mask": lambda: (output.views.alpha - alpha).abs().mean(),
        "asap": lambda: asap(output.canonical.scales, parts, config.asap_parts, config.asap_max_ratio),
        "acap": lambda: acap(output.canonical.offsets, config.acap_free_m),
        "face_id": lambda: _face_id(output, batch, _needed(face_features, "face_id")),
    }
    weights = {name: ramp_value(getattr(config, name), step) for name in terms}
    values = {name: terms[name]() for name, weight in weights.items() if weight}
    total = torch.stack([weights[name] * value for name, value in values.items()]).sum()
    return Losses(total=total, parts={name: value.detach() for name, value in values.items()})


def on_white(image: Float[Tensor, "*b 3 h w"], alpha: Float[Tensor, "*b 1 h w"]) -> Float[Tensor, "*b 3 h w"]:
    """The image inside the matte, on white."""
    return image.float() * alpha + (1.0 - alpha)


def asap(
    scales: Float[Tensor, "B N 3"], parts: PointParts, weights: PartWeights, max_ratio: float
) -> Float[Tensor, ""]:
    """Sum over parts of weight * mean hinge of longest / shortest axis above `max_ratio`."""
    ratio = scales.amax(-1) / (scales.amin(-1) + 1e-6)
    excess = (ratio - max_ratio).clamp(min=0.0)
    total = excess.new_zeros(())
    for field in fields(PartWeights):
        members = getattr(parts, field.name).to(excess.dtype)
        mean = (excess * members).mean(0).sum() / members.sum().clamp(min=1.0)
        total = total + getattr(weights, field.name) * mean
    return total


def acap(offsets: Float[Tensor, "B N 3"], free_m: float) -> Float[Tensor, ""]:
    """Mean hinge of the offsets' lengths above `free_m` metres."""
    # A tiny constant keeps the gradient of the length finite at the offsets' start, which is exactly 0.
    return ((offsets.square().sum(-1) + 1e-12).sqrt() - free_m).clamp(min=0.0).mean()


def ramp_value(ramp: str, step: int) -> float:
    """The value of a weight at a step; raises `ConfigError` when `ramp` is neither a number nor a ramp."""
    fields_ = ramp.split(":")
    try:
        if len(fields_) == 1:
            return float(ramp)
        start, first, last, end = (float(value) for value in fields_)
    except ValueError:
        raise ConfigError(f"{ramp!r} is neither a number nor 'start_step:start_value:end_value:end_step'") from None
    if end <= start:
        raise ConfigError(f"{ramp!r} ends at step {end:g}, not after its start {start:g}")
    share = min(1.0, max(0.0, (step - start) / (end - start)))
    return first + share * (last - first)


def _needed(network: Network | None, name: str) -> Network:
    if network is None:
        raise ConfigError(f"loss.{name} has a weight but no network was given; load one or set the weight to 0")
    return network


def _face_id(output: LHMOutput, batch: Batch, features: FaceFeatures) -> Float[Tensor, ""]:
    boxes = batch.target_head_box.flatten(0, 1)
    seen = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not bool(seen.any()):
        return output.views.colour.new_zeros(())
    rendered = face_crops(output.views.colour.flatten(0, 1)[seen], boxes[seen])
    true = face_crops(batch.target_image.flatten(0, 1)[seen], boxes[seen])
    with torch.no_grad():
        wanted = features(true)
    return (features(rendered) - wanted).abs().mean()
