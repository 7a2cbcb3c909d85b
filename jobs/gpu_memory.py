"""What to do when the GPU's memory does not suffice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from lhmforge.datasets.errors import BackendError


@contextlib.contextmanager
def memory_explained(advice: str) -> Iterator[None]:
    """Turns an out-of-memory error of the GPU inside the block into a `BackendError` that ends with `advice`."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        first = str(error).strip().partition("\n")[0]
        raise BackendError(f"the GPU ran out of memory ({first}); {advice}") from error
