"""Attention with bounded scores: the bound, the scaling for base 2, the operators (kernels stood in for) and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lhmforge.datasets.errors import BackendError
from lhmforge.lhm_model import attention_bounded
from lhmforge.lhm_model.attention import HeadNorm, attend, kernel_available, resolve_kernel, score_bound, takes_bound
from lhmforge.lhm_model.attention_bounded import BOUND_LIMIT, HEAD_DIM, QUERY_FACTOR, bounded


def _norm(seed: int, *, spread: float) -> HeadNorm:
    norm = HeadNorm(HEAD_DIM)
    torch.nn.init.normal_(norm.gain, 1.0, spread, generator=torch.Generator().manual_seed(seed))
    return norm


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0])
def test_no_score_exceeds_the_bound_and_the_worst_comes_near(spread: float) -> None:
    points, context = _norm(0, spread=spread), _norm(1, spread=spread)
    x = torch.randn(1, 300, 2, HEAD_DIM) * 5
    # The worst input: all of a vector in the channel where one norm's gains are largest for queries and keys alike.
    worst = torch.zeros(1, HEAD_DIM, 2, HEAD_DIM)
    worst[0, torch.arange(HEAD_DIM), :, torch.arange(HEAD_DIM)] = 100.0
    inputs = torch.cat([x, worst, -worst], dim=1)
    queries = torch.cat([points.query(inputs), context.query(inputs)], dim=1)
    keys = torch.cat([points.key(inputs), context.key(inputs)], dim=1)
    largest = torch.einsum("bmhd,bnhd->bhmn", queries, keys).abs().amax() / HEAD_DIM**0.5
    bound = score_bound(points, context)
    assert not bound.requires_grad and bound.dtype == torch.float32
    assert largest <= bound
    if spread == 0.0:
        assert largest > 0.97 * bound


def test_sums_of_exponentials_at_the_limit_stay_within_float32() -> None:
    tokens = 10**6
    assert math.exp(BOUND_LIMIT) * tokens < torch.finfo(torch.float32).max
    assert math.exp(-BOUND_LIMIT) > torch.finfo(torch.bfloat16).tiny


def test_queries_times_the_factor_make_a_softmax_of_base_two() -> None:
    norm = _norm(2, spread=0.2)
    q, k, v = (torch.randn(2, n, 3, HEAD_DIM, dtype=torch.float64) for n in (5, 7, 7))
    plain, scaled = norm.query(q.float()), norm.query(q.float(), QUERY_FACTOR)
    weights = torch.exp2(torch.einsum("bmhd,bnhd->bhmn", scaled, k.float()))
    ours = torch.einsum("bhmn,bnhd->bmhd", weights / weights.sum(-1, keepdim=True), v.float())
    torch.testing.assert_close(ours, attend(plain, k.float(), v.float(), "math"))


def _stand_in_forward(q: Tensor, k: Tensor, v: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """What the kernels compute, in plain torch."""
    scores = torch.einsum("bmhd,bnhd->bhmn", q, k) * math.log(2.0)
    assert scores.abs().amax() <= bound
    return torch.einsum("bhmn,bnhd->bmhd", scores.softmax(-1), v), scores.logsumexp(-1)


def _stand_in_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass of attention from the saved sums, with the scale that the real ones are given."""
    scale = attention_bounded._BACKWARD_SCALE
    weights = (torch.einsum("bmhd,bnhd->bhmn", q, k) * scale - log_sum[..., None]).exp()
    by_row = (grad * out).sum(-1).transpose(1, 2)[..., None]
    scores = weights * (torch.einsum("bmhd,bnhd->bhmn", grad, v) - by_row) * scale
    dq, dk = torch.einsum("bhmn,bnhd->bmhd", scores, k), torch.einsum("bhmn,bmhd->bnhd", scores, q)
    return dq, dk, torch.einsum("bhmn,bmhd->bnhd", weights, grad)


def test_operators_carry_gradients_and_compile_without_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_bounded, "launch_bounded", _stand_in_forward)
    monkeypatch.setattr(attention_bounded, "_cudnn_backward", _stand_in_backward)
    attention_bounded._define_operators("cudnn")
    inputs = [torch.randn(2, n, 3, HEAD_DIM) for n in (5, 7, 7)]
    bound = torch.tensor(1e3)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return bounded(q * QUERY_FACTOR, k, v, bound, "cudnn")

    expected = _gradients(lambda q, k, v: attend(q, k, v, "math"), inputs)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for function in (ours, compiled):
        for value, reference in zip(_gradients(function, inputs), expected, strict=True):
            torch.testing.assert_close(value, reference, atol=2e-5, rtol=1e-4)


def _gradients(function: object, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = function(*leaves)  # type: ignore[operator]
    return [out, *torch.autograd.grad(out.square().sum(), leaves)]


@pytest.mark.skipif(kernel_available("bounded"), reason="the kernels run here")
def test_other_devices_are_refused_and_never_asked_for_a_bound() -> None:
    with pytest.raises(BackendError, match="Hopper"):
        resolve_kernel("bounded")
    with pytest.raises(BackendError, match="Hopper"):
        attention_bounded.register_bounded("cudnn")
    assert not takes_bound("bounded", torch.zeros(1, 4, 2, HEAD_DIM, dtype=torch.bfloat16))
    x = torch.randn(1, 4, 2, HEAD_DIM)
    with pytest.raises(AssertionError, match="takes no bound"):
        attend(x, x, x, "bounded", torch.tensor(8.0))


@pytest.mark.gpu
@pytest.mark.parametrize("spread", [1.0, 6.0])
def test_kernels_agree_with_the_reference(spread: float) -> None:
    kernel = resolve_kernel("bounded")
    generator = torch.Generator("cuda").manual_seed(0)
    inputs = [torch.randn(2, n, 4, HEAD_DIM, device="cuda", generator=generator) for n in (1500, 2111, 2111)]
    inputs[0] *= spread
    bound = inputs[0].norm(dim=-1).amax() * inputs[1].norm(dim=-1).amax() / HEAD_DIM**0.5
    assert (bound > BOUND_LIMIT) == (spread == 6.0)
    half = [tensor.bfloat16() for tensor in inputs]
    ours = _gradients(lambda q, k, v: attend(q * QUERY_FACTOR, k, v, kernel, bound), half)
    exact = _gradients(lambda q, k, v: attend(q, k, v, "math"), inputs)
    for value, reference in zip(ours, exact, strict=True):
        assert (value.float() - reference).norm() < 2e-2 * reference.norm()
