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
from lhmforge.lhm_model.attention_bounded import HEAD_DIM, bounded, bounded_present, register_bounded
from lhmforge.lhm_model.attention_flash import flash4, flash4_present, register_flash4

Kernel = Literal["auto", "math", "sdpa", "cudnn", "flash", "flash4", "bounded", "bounded_flash4"]
KERNELS: tuple[Kernel, ...] = ("auto", "math", "sdpa", "cudnn", "flash", "flash4", "bounded", "bounded_flash4")
_BACKWARD: dict[Kernel, str] = {"bounded": "cudnn", "bounded_flash4": "flash4"}
_NEEDS: dict[Kernel, str] = {
    "flash4": "the package flash-attn-4 and a CUDA device",
    "bounded": "a Hopper GPU and the package triton 3.6",
    "bounded_flash4": "a Hopper GPU and the packages triton 3.6 and flash-attn-4",
}
_HALF = (torch.bfloat16, torch.float16)


def kernel_available(kernel: Kernel) -> bool:
    """Whether this process can run `kernel`: all but `auto`, `math` and `sdpa` need a CUDA device, some more."""
    if kernel in ("auto", "math", "sdpa"):
        return True
    flash4_there = flash4_present() or kernel not in ("flash4", "bounded_flash4")
    return torch.cuda.is_available() and flash4_there and (bounded_present() or kernel not in _BACKWARD)


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
        raise BackendError(f"attention kernel {kernel!r} needs {_NEEDS.get(kernel, 'a CUDA device')}; use 'auto'")
    if kernel == "flash4":
        register_flash4()
    if kernel in _BACKWARD:
        register_bounded(_BACKWARD[kernel])
    return kernel


def takes_bound(kernel: Kernel, x: Float[Tensor, "B N H D"]) -> bool:
    """Whether `attend` with this kernel and inputs like `x` wants a bound and queries times `QUERY_FACTOR`."""
    return kernel in _BACKWARD and x.is_cuda and x.dtype == torch.bfloat16 and x.shape[-1] == HEAD_DIM


def attend(
    q: Float[Tensor, "B M H D"],
    k: Float[Tensor, "B N H D"],
    v: Float[Tensor, "B N H D"],
    kernel: Kernel = "auto",
    bound: Float[Tensor, ""] | None = None,
) -> Float[Tensor, "B M H D"]:
    """Full attention of `M` queries over `N` keys per head; no mask, scale 1 / sqrt(D).

    With a `bound`, which only a kernel that `takes_bound` may get, queries come multiplied by `QUERY_FACTOR`; without
    one such a kernel leaves the work to cuDNN.
    """
    if kernel == "math":
        return _math(q, k, v)
    half_on_cuda = q.is_cuda and q.dtype in _HALF
    if bound is not None:
        assert takes_bound(kernel, q), f"kernel {kernel} takes no bound"
        return bounded(q, k, v, bound, _BACKWARD[kernel])
    if kernel == "flash4" and half_on_cuda:
        return flash4(q, k, v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if kernel in ("auto", "cudnn", "flash", *_BACKWARD) and half_on_cuda:
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

    def query(self, x: Float[Tensor, "B N H D"], factor: float = 1.0) -> Float[Tensor, "B N H D"]:
        """Normalised queries times `factor`, rounded once."""
        return _rms_norm(x, self.gain[0], factor)

    def key(self, x: Float[Tensor, "B N H D"]) -> Float[Tensor, "B N H D"]:
        return _rms_norm(x, self.gain[1])


def score_bound(*norms: HeadNorm) -> Float[Tensor, ""]:
    """What no score of queries and keys that came through any of these norms exceeds (Cauchy-Schwarz), float32.

    A normalised vector has the length sqrt(D) at most, times its largest gain; the margin covers bfloat16's rounding.
    """
    largest = torch.stack([norm.gain.detach().float().abs().amax(-1) for norm in norms]).amax(0)
    return largest.prod() * (1.02 * norms[0].gain.shape[-1] ** 0.5)


def _rms_norm(x: Tensor, gain: Tensor, factor: float = 1.0) -> Tensor:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * factor
    return (wide * scale * gain.float()).to(x.dtype)


def _math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bmhd,bnhd->bhmn", q, k).float() * q.shape[-1] ** -0.5
    return torch.einsum("bhmn,bnhd->bmhd", scores.softmax(-1).to(v.dtype), v)
