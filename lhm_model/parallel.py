"""The processes of one training run: what the loop needs from them, and how a model is spread over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Strategy = Literal["ddp", "fsdp"]


@runtime_checkable
class ProcessGroup(Protocol):
    """The processes that train together; each method must be called by all of them."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def mean(self, values: Tensor) -> Tensor:
        """Element-wise mean of every process's `values`."""

    def minimum(self, values: Tensor) -> Tensor:
        """Element-wise minimum of every process's `values`."""

    def gather_strings(self, values: Sequence[str]) -> list[str]:
        """All processes' strings in rank order."""

    def barrier(self) -> None:
        """Returns when every process has called it."""


class SingleProcess:
    """A run of one process."""

    rank = 0
    world_size = 1

    def mean(self, values: Tensor) -> Tensor:
        return values

    def minimum(self, values: Tensor) -> Tensor:
        return values

    def gather_strings(self, values: Sequence[str]) -> list[str]:
        return list(values)

    def barrier(self) -> None:
        return None


class TorchGroup:
    """The default group of an initialised `torch.distributed`."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def mean(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def minimum(self, values: Tensor) -> Tensor:
        lowest = values.clone()
        dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
        return lowest

    def gather_strings(self, values: Sequence[str]) -> list[str]:
        gathered: list[list[str]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(gathered, list(values))
        return [value for part in gathered for value in part]

    def barrier(self) -> None:
        dist.barrier()


def spread(model: nn.Module, *, strategy: Strategy, group: ProcessGroup, device: torch.device) -> nn.Module:
    """Wraps `model` for training over `group`; a single process gets the model itself.

    `fsdp` shards parameters, gradients and optimiser state with FSDP2 (one unit per child of a `blocks` module list,
    the rest in the root unit); it changes the model in place.
    """
    if group.world_size == 1 and strategy == "ddp":
        return model
    if strategy == "ddp":
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,  # every process builds the same tables, and none has running statistics
            gradient_as_bucket_view=True,
        )
    from torch.distributed.fsdp import fully_shard

    for module in model.modules():
        blocks = getattr(module, "blocks", None)
        if isinstance(blocks, nn.ModuleList):
            for block in blocks:
                fully_shard(block)
    fully_shard(model)
    return model


@contextmanager
def gradient_sync(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Lets gradients add up locally in all but the last backward pass of an accumulated step."""
    if isinstance(model, DistributedDataParallel) and not enabled:
        with model.no_sync():
            yield
        return
    set_sync = getattr(model, "set_requires_gradient_sync", None)
    if set_sync is not None:
        set_sync(enabled)
    yield


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a wrapper of `spread`."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(inner, nn.Module)
    return inner
