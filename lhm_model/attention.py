"""Attention over the joint sequence of points and context, with a choice of kernels.

Every kernel computes softmax(q k^T / sqrt(D)) v without mask; `math` is the slow reference that the tests compare the
others with, in value and gradient.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Literal, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lhmforge.datasets.errors import BackendError, ConfigError

Kernel = Literal["auto", "math", "sdpa", "cudnn", "flash", "flash3", "flash4"]
KERNELS: tuple[Kernel, ...] = ("auto", "math", "sdpa", "cudnn", "flash", "flash3", "flash4")
_OPTIONAL_MODULES = {"flash3": "flash_attn_interface", "flash4": "flash_attn.cute"}


@runtime_checkable
class _FlashFunction(Protocol):
    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor | tuple[Tensor, ...]: ...


def kernel_available(kernel: Kernel) -> bool:
    """Whether this process can run `kernel` (the optional ones need their package and a CUDA device)."""
    if kernel in ("auto", "math", "sdpa"):
        return True
    if not torch.cuda.is_available():
        return False
    module = _OPTIONAL_MODULES.get(kernel)
    return module is None or _module_present(module)


def resolve_kernel(name: str) -> Kernel:
    """`auto` becomes cuDNN on CUDA and plain SDPA elsewhere; raises when a named kernel cannot run here."""
    if name not in KERNELS:
        raise ConfigError(f"unknown attention kernel {name!r}; valid: {', '.join(KERNELS)}")
    kernel = KERNELS[KERNELS.index(name)]
    if kernel == "auto":
        return "cudnn" if torch.cuda.is_available() else "sdpa"
    if not kernel_available(kernel):
        need = f"the package {_OPTIONAL_MODULES[kernel]}" if kernel in _OPTIONAL_MODULES else "a CUDA device"
        raise BackendError(f"attention kernel {kernel!r} needs {need}, which is not here; use 'auto'")
    return kernel


def attend(
    q: Float[Tensor, "B M H D"], k: Float[Tensor, "B N H D"], v: Float[Tensor, "B N H D"], kernel: Kernel = "auto"
) -> Float[Tensor, "B M H D"]:
    """Full attention of `M` queries over `N` keys per head; no mask, scale 1 / sqrt(D)."""
    if kernel == "flash3" or kernel == "flash4":
        if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
            return _flash_package(q, k, v, kernel)
        kernel = "sdpa"  # these kernels know half precision on CUDA only
    if kernel == "math":
        return _math(q, k, v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.is_cuda and kernel in ("auto", "cudnn") and q.dtype in (torch.bfloat16, torch.float16):
        # cuDNN first: on Hopper it is the quickest kernel that torch ships; the others take what it refuses.
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], set_priority=True):
            out = F.scaled_dot_product_attention(q, k, v)
    elif q.is_cuda and kernel == "flash":
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
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


def _flash_package(q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
    out = _flash_function(kernel)(q, k, v)
    return out[0] if isinstance(out, tuple) else out


@functools.cache
def _flash_function(kernel: Kernel) -> _FlashFunction:
    module = importlib.import_module(_OPTIONAL_MODULES[kernel])
    return cast(_FlashFunction, module.flash_attn_func)


@functools.cache
def _module_present(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package is absent
        return False
