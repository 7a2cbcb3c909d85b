"""Attention over the joint sequence of points and context, with a choice of kernels.

Every kernel computes softmax(q k^T / sqrt(D)) v without mask; `math` is the slow reference that the tests compare the
others with, in value and gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lhmforge.datasets.errors import BackendError, ConfigError
from lhmforge.lhm_model.attention_flash import flash4, flash4_present, register_flash4

Kernel = Literal["auto", "math", "sdpa", "cudnn", "flash", "flash4"]
KERNELS: tuple[Kernel, ...] = ("auto", "math", "sdpa", "cudnn", "flash", "flash4")
_HALF = (torch.bfloat16, torch.float16)


def kernel_available(kernel: Kernel) -> bool:
    """Whether this process can run `kernel`; `flash4` needs its package, and it, cudnn and flash a CUDA device."""
    if kernel in ("auto", "math", "sdpa"):
        return True
    return flash4_present() if kernel == "flash4" else torch.cuda.is_available()


def resolve_kernel(name: str) -> Kernel:
    """Checks and prepares a kernel; `auto` becomes cuDNN on CUDA and plain SDPA elsewhere.

    Raises `ConfigError` for an unknown name and `BackendError` for a kernel that cannot run here.
    """
    if name not in KERNELS:
        raise ConfigError(f"unknown attention kernel {name!r}; valid: {', '.join(KERNELS)}")
    kernel = KERNELS[KERNELS.index(name)]
    if kernel == "auto":
        return "cudnn" if torch.cuda.is_available() else "sdpa"
    if not kernel_available(kernel):
        need = "the package flash-attn-4 and a CUDA device" if kernel == "flash4" else "a CUDA device"
        raise BackendError(f"attention kernel {kernel!r} needs {need}; use 'auto'")
    if kernel == "flash4":
        register_flash4()
    return kernel


def attend(
    q: Float[Tensor, "B M H D"], k: Float[Tensor, "B N H D"], v: Float[Tensor, "B N H D"], kernel: Kernel = "auto"
) -> Float[Tensor, "B M H D"]:
    """Full attention of `M` queries over `N` keys per head; no mask, scale 1 / sqrt(D)."""
    if kernel == "math":
        return _math(q, k, v)
    half_on_cuda = q.is_cuda and q.dtype in _HALF
    if kernel == "flash4" and half_on_cuda:
        return flash4(q, k, v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if kernel in ("auto", "cudnn", "flash") and half_on_cuda:
        # cuDNN's is the quickest on Hopper of the kernels that torch ships; the others take what it refuses.
        first = [] if kernel == "flash" else [SDPBackend.CUDNN_ATTENTION]
        with sdpa_kernel([*first, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], set_priority=True):
            out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2)


class HeadNorm(nn.Module):
    """RMS normalisation of queries and keys per head, with separate gains, eps 1e-6; statistics in float32."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2, head_dim))  # row 0: queries, row 1: keys

    def query(self, x: Float[Tensor, "B N H D"]) -> Float[Tensor, "B N H D"]:
        return _rms_norm(x, self.gain[0])

    def key(self, x: Float[Tensor, "B N H D"]) -> Float[Tensor, "B N H D"]:
        return _rms_norm(x, self.gain[1])


def _rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    return (wide * scale * gain.float()).to(x.dtype)


def _math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bmhd,bnhd->bhmn", q, k).float() * q.shape[-1] ** -0.5
    return torch.einsum("bhmn,bnhd->bmhd", scores.softmax(-1).to(v.dtype), v)
