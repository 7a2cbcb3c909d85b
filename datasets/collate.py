"""Examples of one batch stacked into tensors, flat so that worker processes and pinning can carry them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from lhmforge.datasets.batch import Batch, BodyBatch
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.sampling import Example, View

_BODY_PREFIX = "body."
_IDS = "sample_ids"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One example with the body and cameras of its targets; `world_to_camera` is float32 [V, 4, 4]."""

    example: Example
    body: BodyParams  # of the target frames
    world_to_camera: np.ndarray


def collate(items: Sequence[BatchItem]) -> dict[str, Tensor | list[str]]:
    """Field name of `Batch` (body fields prefixed) -> stacked tensor."""
    examples = [item.example for item in items]
    sources = [example.source for example in examples]
    heads = torch.from_numpy(np.stack([example.head_image for example in examples]))
    targets = [example.targets for example in examples]
    flat: dict[str, Tensor | list[str]] = {
        _IDS: [example.key for example in examples],
        "source_image": _images([sources])[0],
        "source_alpha": _alphas([sources])[0],
        "head_image": heads.permute(0, 3, 1, 2).contiguous(),
        "head_valid": torch.tensor([example.head_valid for example in examples]),
        "target_image": _images(targets),
        "target_alpha": _alphas(targets),
        "target_head_box": _stack([[view.head_box for view in views] for views in targets]),
        "background": torch.tensor([[[view.background] * 3 for view in views] for views in targets]),
        "intrinsics": _stack([[view.intrinsics for view in views] for views in targets]),
        "world_to_camera": torch.from_numpy(np.stack([item.world_to_camera for item in items])),
    }
    for body_field in fields(BodyParams):
        arrays = [getattr(item.body, body_field.name) for item in items]
        flat[_BODY_PREFIX + body_field.name] = torch.from_numpy(np.stack(arrays))
    return flat


def to_batch(flat: dict[str, Tensor | list[str]]) -> Batch:
    """Inverse of `collate`'s flattening."""
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    ids = flat[_IDS]
    assert isinstance(ids, list)
    body = {name.removeprefix(_BODY_PREFIX): value for name, value in tensors.items() if name.startswith(_BODY_PREFIX)}
    rest = {name: value for name, value in tensors.items() if not name.startswith(_BODY_PREFIX)}
    return Batch(sample_ids=tuple(ids), body=BodyBatch(**body), **rest)


def _images(rows: Sequence[Sequence[View]]) -> Tensor:
    stacked = _stack([[view.image for view in views] for views in rows])
    return stacked.permute(0, 1, 4, 2, 3).contiguous()


def _alphas(rows: Sequence[Sequence[View]]) -> Tensor:
    return _stack([[view.alpha[None] for view in views] for views in rows])


def _stack(rows: Sequence[Sequence[np.ndarray]]) -> Tensor:
    return torch.from_numpy(np.stack([np.stack(row) for row in rows]))
