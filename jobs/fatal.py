"""Errors that starting the workers again would not cure: written down by a worker, raised again by the driver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lhmforge.datasets import storage
from lhmforge.datasets.errors import DeviceMemoryError, DivergenceError, ForgeError
from lhmforge.jobs.config import TrainConfig
from lhmforge.jobs.run_record import RunFolder

_KINDS: dict[str, type[ForgeError]] = {kind.__name__: kind for kind in (DeviceMemoryError, DivergenceError)}


@contextmanager
def fatal_errors_told(config: TrainConfig, folder: RunFolder) -> Iterator[None]:
    """Writes a divergence or a full GPU to `folder.fatal` before it goes on; the latter as `DeviceMemoryError`."""
    try:
        yield
    except DivergenceError as error:
        _write(folder, error)
        raise
    except torch.OutOfMemoryError as error:
        told = DeviceMemoryError(f"{out_of_memory_advice(config)} ({error})")
        _write(folder, told)
        raise told from error


def raise_fatal(folder: RunFolder) -> None:
    """Raises what a worker wrote down, if any did."""
    if folder.fatal.is_file():
        told = json.loads(folder.fatal.read_text())
        raise _KINDS[told["kind"]](told["message"])


def out_of_memory_advice(config: TrainConfig) -> str:
    """What to lower, in the order of what it costs."""
    loader, hardware = config.loader, config.hardware
    ways = []
    if loader.batch_size > 1:
        ways.append(
            f"loader.batch_size {loader.batch_size} (--batch; the global batch of {config.loop.global_batch_size} is "
            "kept by accumulation)"
        )
    if not hardware.checkpoint_blocks and not config.model.checkpoint_blocks:
        ways.append("hardware.checkpoint_blocks true (--checkpoint-blocks; slower, same result)")
    if hardware.strategy == "ddp":
        ways.append("hardware.strategy fsdp on several GPUs (--strategy fsdp)")
    ways.append(f"loader.num_target_views {loader.num_target_views} or loader.target_size {list(loader.target_size)}")
    ways.append(f"a smaller preset or model.num_points {config.model.num_points}")
    return f"the GPU ran out of memory; lower or set, in this order: {'; '.join(ways)}"


def _write(folder: RunFolder, error: ForgeError) -> None:
    text = json.dumps({"kind": type(error).__name__, "message": str(error)})
    storage.publish(folder.fatal, (text.encode() + b"\n",))
