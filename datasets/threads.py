"""One thread per numeric library while a piece of work runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Sums come out alike wherever the work runs, and cores are shared between processes."""
    import cv2
    import torch
    from threadpoolctl import threadpool_limits

    before_cv2, before_torch = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(before_cv2)
        torch.set_num_threads(before_torch)
