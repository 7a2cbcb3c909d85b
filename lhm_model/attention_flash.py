"""The optional FlashAttention-4 kernels (package `flash-attn-4`, Hopper and later) as operators that compile.

The package's own function would break a compiled graph in two at every attention, so forward and backward are
registered as custom operators here.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from lhmforge.datasets.errors import BackendError

_MODULE = "flash_attn.cute.interface"
_registered = False


def flash4_present() -> bool:
    """Whether the package is installed and a CUDA device is there; imports neither."""
    if not torch.cuda.is_available() or importlib.util.find_spec("flash_attn") is None:
        return False
    return importlib.util.find_spec("flash_attn.cute") is not None


def register_flash4() -> None:
    """Makes `torch.ops.lhmforge.flash4` available; raises `BackendError` when the package cannot be used."""
    global _registered
    if _registered:
        return
    try:
        interface = importlib.import_module(_MODULE)
        forward, backward = interface._flash_attn_fwd, interface._flash_attn_bwd
    except (ImportError, AttributeError) as error:
        raise BackendError(f"the package flash-attn-4 cannot be used here ({error}); use another kernel") from error
    _define_operators(forward, backward)
    _registered = True


def flash4(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention [B,M,H,D] in bfloat16 or float16 on CUDA, after `register_flash4`."""
    out: Tensor = torch.ops.lhmforge.flash4(q, k, v)[0]
    return out


def _define_operators(package_forward: Any, package_backward: Any) -> None:
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, log_sum = package_forward(q, k, v, return_lse=True)[:2]
        return out, log_sum

    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = package_backward(q, k, v, out, grad.contiguous(), log_sum)[:3]
        return dq, dk, dv

    forward_op = torch.library.custom_op(
        "lhmforge::flash4", forward, mutates_args=(), schema="(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)"
    )
    backward_op = torch.library.custom_op(
        "lhmforge::flash4_backward",
        backward,
        mutates_args=(),
        schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor log_sum) -> (Tensor, Tensor, Tensor)",
    )
    forward_op.register_fake(
        lambda q, k, v: (
            q.new_empty(q.shape),
            q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32),
        )
    )
    backward_op.register_fake(
        lambda grad, q, k, v, out, log_sum: (q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape))
    )
    forward_op.register_autograd(
        lambda ctx, grad, _: backward_op(grad, *ctx.saved_tensors),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, *output),
    )
