"""The optional kernels' operators: gradient formula and compilation, with stand-ins for the package's functions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lhmforge.datasets.errors import BackendError
from lhmforge.lhm_model import attention_flash
from lhmforge.lhm_model.attention import attend, kernel_available


def _stand_in_forward(q: Tensor, k: Tensor, v: Tensor, *, return_lse: bool) -> tuple[Tensor, Tensor, None]:
    scores = torch.einsum("bmhd,bnhd->bhmn", q, k) * q.shape[-1] ** -0.5
    return attend(q, k, v, "math").contiguous(), scores.logsumexp(-1), None


def _stand_in_backward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    scale = q.shape[-1] ** -0.5
    weights = (torch.einsum("bmhd,bnhd->bhmn", q, k) * scale).softmax(-1)
    from_weights = torch.einsum("bmhd,bnhd->bhmn", grad, v)
    scores = weights * (from_weights - (from_weights * weights).sum(-1, keepdim=True)) * scale
    dq, dk = torch.einsum("bhmn,bnhd->bmhd", scores, k), torch.einsum("bhmn,bmhd->bnhd", scores, q)
    return dq.contiguous(), dk.contiguous(), torch.einsum("bhmn,bmhd->bnhd", weights, grad).contiguous()


@pytest.fixture(scope="module")
def operators() -> None:
    attention_flash._define_operators(_stand_in_forward, _stand_in_backward)


def _gradients(function: object, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = function(*leaves)  # type: ignore[operator]
    return [out, *torch.autograd.grad(out.square().sum(), leaves)]


def test_operators_carry_gradients_and_compile_without_a_break(operators: None) -> None:
    inputs = [torch.randn(2, n, 3, 8) for n in (5, 7, 7)]
    expected = _gradients(lambda q, k, v: attend(q, k, v, "math"), inputs)
    compiled = torch.compile(attention_flash.flash4, fullgraph=True, backend="aot_eager")
    for function in (attention_flash.flash4, compiled):
        for ours, theirs in zip(_gradients(function, inputs), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(kernel_available("flash4"), reason="the package is installed here")
def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_flash, "_registered", False)
    with pytest.raises(BackendError, match="flash-attn-4"):
        attention_flash.register_flash4()
