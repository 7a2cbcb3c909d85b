"""Attention kernels against the slow reference, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from lhmforge.datasets.errors import BackendError, ConfigError
from lhmforge.lhm_model.attention import KERNELS, HeadNorm, Kernel, attend, kernel_available, resolve_kernel

AVAILABLE = [kernel for kernel in KERNELS if kernel != "math" and kernel_available(kernel)]


def _run(kernel: Kernel) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 3, 16, generator=generator, requires_grad=True) for n in (11, 19, 19))
    out = attend(q, k, v, kernel)
    (out * torch.randn(out.shape, generator=generator)).sum().backward()
    assert q.grad is not None and k.grad is not None and v.grad is not None
    return [out, q.grad, k.grad, v.grad]


@pytest.mark.parametrize("kernel", AVAILABLE)
def test_kernels_agree_with_the_reference(kernel: Kernel) -> None:
    for ours, reference in zip(_run(kernel), _run("math"), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


def test_a_kernel_that_cannot_run_here_is_refused() -> None:
    with pytest.raises(ConfigError, match="flash4"):
        resolve_kernel("fast")
    for kernel in KERNELS:
        if not kernel_available(kernel):
            with pytest.raises(BackendError, match=kernel):
                resolve_kernel(kernel)


def test_head_norm_gives_unit_mean_square_per_head() -> None:
    x = 7.0 * torch.randn(2, 5, 3, 16)
    norm = HeadNorm(16)
    torch.testing.assert_close(norm.query(x).square().mean(-1), torch.ones(2, 5, 3), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        norm.gain[1] = 2.0
    torch.testing.assert_close(norm.key(x), 2.0 * norm.query(x))
