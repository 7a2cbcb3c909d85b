"""The processes of one training run: what the loop needs from them, and how a model is spread over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
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

    def side_group(self) -> dist.ProcessGroup | None:
        """A new group of the same processes on the CPU, for work beside training; None without any group."""


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

    def side_group(self) -> dist.ProcessGroup | None:
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

    def side_group(self) -> dist.ProcessGroup | None:
        # Never the group that gradients travel in: a thread's messages there could overtake the loop's.
        # A group of one is made too: torch refuses asynchronous saves where only NCCL is at hand.
        return dist.new_group(backend="gloo")


def spread(
    model: nn.Module, *, strategy: Strategy, group: ProcessGroup, device: torch.device, half_blocks: bool = False
) -> nn.Module:
    """Wraps `model` for training over `group`; a single process gets the model itself.

    `fsdp` shards parameters, gradients and optimiser state with FSDP2, in place: one unit per child of a `blocks`
    module list (transformer and encoders), the rest in the root unit. With `half_blocks` blocks are gathered and
    computed in bfloat16 and their gradients still reduced in float32; the root, where points, modulation and the
    Gaussian head are computed in float32, stays as it is.
    """
    if group.world_size == 1:
        return model
    if strategy == "ddp":
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,  # every process builds the same tables, and none has running statistics
            gradient_as_bucket_view=True,
        )
    mesh = init_device_mesh(device.type, (group.world_size,))
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = half if half_blocks else MixedPrecisionPolicy(cast_forward_inputs=False)
    for block in _blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    return model


@contextmanager
def gradient_sync(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Lets gradients add up locally in all but the last backward pass of an accumulated step."""
    if isinstance(model, DistributedDataParallel) and not enabled:
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(enabled)
    yield


def settle(model: nn.Module) -> None:
    """Brings a sharded model back to its shards after a forward pass without a backward pass.

    Until then the root's parameters are gathered copies: writing to them would be lost.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def full(value: Tensor) -> Tensor:
    """The whole of a sharded tensor (every process calls it); others as they are."""
    gather = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def local(value: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; others as they are."""
    part = getattr(value, "to_local", None)
    return value if part is None else part()


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a wrapper of `spread`."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(inner, nn.Module)
    return inner


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of all transformers inside; collected before sharding changes the modules' classes."""
    lists = [getattr(module, "blocks", None) for module in model.modules()]
    return [block for blocks in lists if isinstance(blocks, nn.ModuleList) for block in blocks]
