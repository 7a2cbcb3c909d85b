"""Attention for queries and keys of bounded length: a forward kernel of our own, backward by cuDNN or FlashAttention-4.

RMS-normalised queries and keys (`HeadNorm`) cannot score above sqrt(D) * max|gain_q| * max|gain_k|, so the softmax
needs no running maximum. The kernels are in `attention_bounded_kernels` and come with torch's CUDA builds (Triton).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from typing import Any

import torch
from torch import Tensor

from lhmforge.datasets.errors import BackendError
from lhmforge.lhm_model.attention_flash import register_flash4

TRITON_VERSION = "3.6."  # Gluon is experimental: another version may read the kernels differently
HEAD_DIM = 64
# The kernels compute 2^(q . k): queries come multiplied by this, which is free inside their normalisation.
QUERY_FACTOR = math.log2(math.e) / math.sqrt(HEAD_DIM)
_BACKWARD_SCALE = math.log(2.0)  # what turns such a product into the score of an ordinary softmax
# exp(60) * 1e6 keys stays far below float32's largest number, exp(-60) far above its smallest; bfloat16 has its range.
BOUND_LIMIT = 60.0
_ROWS, _KEYS, _STAGES = 64, 128, 4  # of one warp group, of one tile, tiles in flight
_registered: set[str] = set()


def bounded_present() -> bool:
    """Whether this process can run the kernels: a Hopper device and the Triton whose Gluon they are written in."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        return False
    try:
        return importlib.metadata.version("triton").startswith(TRITON_VERSION)
    except importlib.metadata.PackageNotFoundError:
        return False


def register_bounded(backward: str) -> None:
    """Makes the operators with this backward pass (`cudnn` or `flash4`) available; raises `BackendError` where not."""
    if backward in _registered:
        return
    if not bounded_present():
        raise BackendError("the kernel 'bounded' needs a Hopper GPU and the package triton 3.6; use 'auto'")
    if backward == "flash4":
        register_flash4()
    _define_operators(backward)
    _registered.add(backward)


def bounded(q: Tensor, k: Tensor, v: Tensor, bound: Tensor, backward: str) -> Tensor:
    """Attention [B,M,H,D] in bfloat16 on CUDA, after `register_bounded`, of queries times `QUERY_FACTOR`.

    `bound` is what no |score| of the softmax exceeds; a bound above `BOUND_LIMIT` costs time, not correctness.
    """
    out: Tensor = getattr(torch.ops.lhmforge, f"bounded_{backward}")(q, k, v, bound)[0]
    return out


def launch_bounded(q: Tensor, k: Tensor, v: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """The output and the natural logarithm [B,H,M] of the sums of exponentials; see `bounded`."""
    kernels = importlib.import_module("lhmforge.lhm_model.attention_bounded_kernels")
    descriptors = importlib.import_module("triton.experimental.gluon.nvidia.hopper")
    language = importlib.import_module("triton.experimental.gluon.language")
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    batch, rows, heads, _ = q.shape
    keys = k.shape[1]
    out = torch.empty_like(q)
    log_sum = torch.empty((batch, heads, rows), dtype=torch.float32, device=q.device)

    def tiled(tensor: Tensor, height: int) -> Any:
        layout = language.NVMMASharedLayout.get_default_for([height, HEAD_DIM], language.bfloat16)
        flat = tensor.view(-1, heads * HEAD_DIM)
        return descriptors.TensorDescriptor.from_tensor(flat, [height, HEAD_DIM], layout)

    sizes = (rows, keys, heads)
    with torch.cuda.device(q.device):
        kernels.bounded_kernel[(-(-rows // (3 * _ROWS)), batch * heads)](
            tiled(q, _ROWS), tiled(k, _KEYS), tiled(v, _KEYS), out, log_sum, bound, BOUND_LIMIT, *sizes,
            ROWS=_ROWS, KEYS=_KEYS, STAGES=_STAGES, num_warps=4, maxnreg=128,
        )  # fmt: skip
        kernels.online_kernel[(-(-rows // 128), batch * heads)](
            q, k, v, out, log_sum, bound, BOUND_LIMIT, *sizes, ROWS=128, KEYS=64, num_warps=8, num_stages=3
        )
    return out, log_sum


def _cudnn_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    seed = torch.zeros((), dtype=torch.int64, device=q.device)  # of a dropout that is off
    by_head = [tensor.transpose(1, 2) for tensor in (grad, q, k, v, out)]
    dq, dk, dv = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        *by_head, log_sum[..., None], seed, seed, None, None, None, q.shape[1], k.shape[1], 0.0, False,
        scale=_BACKWARD_SCALE,
    )  # fmt: skip
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


def _flash4_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    package = importlib.import_module("flash_attn.cute.interface")
    dq, dk, dv = package._flash_attn_bwd(q, k, v, out, grad, log_sum, softmax_scale=_BACKWARD_SCALE)[:3]
    return dq, dk, dv


def _define_operators(backward: str) -> None:
    def forward_pass(q: Tensor, k: Tensor, v: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        return launch_bounded(q, k, v, bound)

    def backward_pass(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        run = _cudnn_backward if backward == "cudnn" else _flash4_backward
        dq, dk, dv = run(grad.contiguous(), q, k, v, out, log_sum)
        return dq.contiguous(), dk.contiguous(), dv.contiguous()

    name = f"lhmforge::bounded_{backward}"
    forward_op = torch.library.custom_op(
        name, forward_pass, mutates_args=(), schema="(Tensor q, Tensor k, Tensor v, Tensor bound) -> (Tensor, Tensor)"
    )
    backward_op = torch.library.custom_op(
        f"{name}_backward",
        backward_pass,
        mutates_args=(),
        schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor log_sum) -> (Tensor, Tensor, Tensor)",
    )
    forward_op.register_fake(
        lambda q, k, v, bound: (
            q.new_empty(q.shape),
            q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32),
        )
    )
    backward_op.register_fake(
        lambda grad, q, k, v, out, log_sum: (q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape))
    )
    forward_op.register_autograd(
        lambda ctx, grad, _: (*backward_op(grad, *ctx.saved_tensors), None),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:3], *output),
    )
