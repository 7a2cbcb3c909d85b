"""The training batch: one source image and V target views per sample."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyBatch:
    """SMPL-X parameters of `B` persons in `V` views; axis-angle, radians and metres as in `BodyParams`."""

    betas: Float[Tensor, "B S"]
    expression: Float[Tensor, "B V E"]
    global_orient: Float[Tensor, "B V 3"]
    body_pose: Float[Tensor, "B V 21 3"]
    jaw_pose: Float[Tensor, "B V 3"]
    leye_pose: Float[Tensor, "B V 3"]
    reye_pose: Float[Tensor, "B V 3"]
    left_hand_pose: Float[Tensor, "B V 15 3"]
    right_hand_pose: Float[Tensor, "B V 15 3"]
    transl: Float[Tensor, "B V 3"]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> BodyBatch:
        return replace(
            self, **{f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images are sRGB in 0..1. The source is composited on white. Targets are composited on `background`."""

    sample_ids: tuple[str, ...]
    source_image: Float[Tensor, "B 3 H W"]
    source_alpha: Float[Tensor, "B 1 H W"]
    head_image: Float[Tensor, "B 3 K K"]  # head crop of the source, white where the crop leaves the image
    head_valid: Bool[Tensor, " B"]
    target_image: Float[Tensor, "B V 3 h w"]
    target_alpha: Float[Tensor, "B V 1 h w"]
    target_head_box: Float[Tensor, "B V 4"]  # x0, y0, x1, y1 in target pixels; zeros: no face seen
    background: Float[Tensor, "B V 3"]
    intrinsics: Float[Tensor, "B V 3 3"]
    world_to_camera: Float[Tensor, "B V 4 4"]
    body: BodyBatch

    @property
    def num_samples(self) -> int:
        return len(self.sample_ids)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
            if f.name != "sample_ids"
        }
        return replace(self, **moved)
