"""Hopper kernels of attention whose scores are bounded, in Gluon and Triton (both part of the package `triton`).

`bounded_kernel` follows the plan of FlashAttention-3 (arXiv 2407.08608): one warp loads tiles of keys and values by TMA
into a ring of buffers, three groups of four warps each hold 64 query rows, and a group's next scores are computed by
the tensor cores while it exponentiates the present ones. What is new is the softmax: scores of normalised queries and
keys cannot exceed a known bound, so 2^score is summed as it is; no running maximum, no rescaling. The loop is bound by
the number of instructions, hence queries come scaled for base 2. `online_kernel` is the ordinary online softmax for
bounds that are too large for that. Each of the two returns at once where the other one is right, so that choosing
needs no look at the bound from the CPU. Head dimension 64, bfloat16.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, no_type_check

import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)


def _gluon(function: Callable[..., Any]) -> Any:
    return gluon.jit(inspect.unwrap(function))


def _triton(function: Callable[..., Any]) -> Any:
    return triton.jit(inspect.unwrap(function))


@_gluon
@no_type_check
def _load_tiles(
    q_desc, k_desc, v_desc, q_s, k_s, v_s, q_full, k_full, v_full, k_empty, v_empty, q_row, k_row, column, tiles,
    ROWS: gl.constexpr, KEYS: gl.constexpr, GROUPS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The loading warp: all queries once, then tiles of keys and values as their buffers become free."""
    mbarrier.expect(q_full, GROUPS * ROWS * 64 * 2)
    for group in gl.static_range(GROUPS):
        tma.async_copy_global_to_shared(q_desc, [q_row + group * ROWS, column], q_full, q_s.index(group))
    for i in range(tiles):
        slot = i % STAGES
        phase = (i // STAGES) & 1
        # The ragged last tile comes first: consumers then mask it outside of their loop.
        row = k_row + gl.where(i == 0, tiles - 1, i - 1) * KEYS
        mbarrier.wait(k_empty.index(slot), phase ^ 1)
        mbarrier.expect(k_full.index(slot), KEYS * 64 * 2)
        tma.async_copy_global_to_shared(k_desc, [row, column], k_full.index(slot), k_s.index(slot))
        mbarrier.wait(v_empty.index(slot), phase ^ 1)
        mbarrier.expect(v_full.index(slot), KEYS * 64 * 2)
        tma.async_copy_global_to_shared(v_desc, [row, column], v_full.index(slot), v_s.index(slot))


@_gluon
@no_type_check
def _attend_rows(
    out, log_sum, q_s, k_s, v_s, q_full, k_full, v_full, k_empty, v_empty, first, rows, keys, out_base,
    sum_base, stride, tiles, GROUP: gl.constexpr, ROWS: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """One group of four warps: `ROWS` queries over all keys."""
    scores_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    out_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    weights_layout: gl.constexpr = gl.DotOperandLayout(0, out_layout, 2)
    q = q_s.index(GROUP)
    acc = gl.zeros([ROWS, 64], gl.float32, out_layout)
    empty = gl.zeros([ROWS, KEYS], gl.float32, scores_layout)
    mbarrier.wait(q_full, 0)
    mbarrier.wait(k_full.index(0), 0)
    token = warpgroup_mma(q, k_s.index(0).permute((1, 0)), empty, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=[token])
    mbarrier.arrive(k_empty.index(0), count=1)
    key = (tiles - 1) * KEYS + gl.arange(0, KEYS, layout=gl.SliceLayout(0, scores_layout))
    weights = gl.where(key[None, :] < keys, gl.exp2(scores), 0.0)
    total = gl.sum(weights, 1)
    half = gl.convert_layout(weights.to(gl.bfloat16), weights_layout)
    for i in range(1, tiles):
        slot = i % STAGES
        before = (i - 1) % STAGES
        mbarrier.wait(k_full.index(slot), (i // STAGES) & 1)
        score_token = warpgroup_mma(q, k_s.index(slot).permute((1, 0)), empty, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(before), ((i - 1) // STAGES) & 1)
        out_token = warpgroup_mma(half, v_s.index(before), acc, is_async=True)
        scores = warpgroup_mma_wait(1, deps=[score_token])
        mbarrier.arrive(k_empty.index(slot), count=1)
        weights = gl.exp2(scores)
        total += gl.sum(weights, 1)
        acc = warpgroup_mma_wait(0, deps=[out_token])
        mbarrier.arrive(v_empty.index(before), count=1)
        half = gl.convert_layout(weights.to(gl.bfloat16), weights_layout)
    last = (tiles - 1) % STAGES
    mbarrier.wait(v_full.index(last), ((tiles - 1) // STAGES) & 1)
    acc = warpgroup_mma(half, v_s.index(last), acc)
    row = first + GROUP * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, out_layout))
    total = gl.convert_layout(total, gl.SliceLayout(1, out_layout))
    channel = gl.arange(0, 64, layout=gl.SliceLayout(0, out_layout))
    place = out + out_base + row.to(gl.int64)[:, None] * stride + channel[None, :]
    gl.store(place, (acc / total[:, None]).to(gl.bfloat16), mask=row[:, None] < rows)
    gl.store(log_sum + sum_base + row, gl.log2(total) * 0.6931471805599453, mask=row < rows)


@_gluon
@no_type_check
def bounded_kernel(
    q_desc, k_desc, v_desc, out, log_sum, bound, limit, rows, keys, heads,
    ROWS: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Program (tile of 3 * `ROWS` queries, batch item * head); arrays are [B,N,H,64], `log_sum` [B,H,N]."""
    if gl.load(bound) > limit:
        return
    first = gl.program_id(0) * (3 * ROWS)
    head = gl.program_id(1) % heads
    item = gl.program_id(1) // heads
    q_s = gl.allocate_shared_memory(gl.bfloat16, [3, ROWS, 64], q_desc.layout)
    k_s = gl.allocate_shared_memory(gl.bfloat16, [STAGES, KEYS, 64], k_desc.layout)
    v_s = gl.allocate_shared_memory(gl.bfloat16, [STAGES, KEYS, 64], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full, count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=3)
        mbarrier.init(v_empty.index(i), count=3)
    fence_async_shared()
    tiles = gl.cdiv(keys, KEYS)
    stride = heads * 64
    out_base = item.to(gl.int64) * rows * stride + head * 64
    sum_base = (item.to(gl.int64) * heads + head) * rows
    zero: gl.constexpr = 0
    one: gl.constexpr = 1
    two: gl.constexpr = 2
    three: gl.constexpr = 3
    gl.warp_specialize(
        [
            (_attend_rows, (out, log_sum, q_s, k_s, v_s, q_full, k_full, v_full, k_empty, v_empty, first, rows, keys,
                            out_base, sum_base, stride, tiles, zero, ROWS, KEYS, STAGES)),
            (_attend_rows, (out, log_sum, q_s, k_s, v_s, q_full, k_full, v_full, k_empty, v_empty, first, rows, keys,
                            out_base, sum_base, stride, tiles, one, ROWS, KEYS, STAGES)),
            (_attend_rows, (out, log_sum, q_s, k_s, v_s, q_full, k_full, v_full, k_empty, v_empty, first, rows, keys,
                            out_base, sum_base, stride, tiles, two, ROWS, KEYS, STAGES)),
            (_load_tiles, (q_desc, k_desc, v_desc, q_s, k_s, v_s, q_full, k_full, v_full, k_empty, v_empty,
                           item * rows + first, item * keys, head * 64, tiles, ROWS, KEYS, three, STAGES)),
        ],
        [4, 4, 1],
        [160, 160, 24],
    )  # fmt: skip


@_triton
@no_type_check
def online_kernel(q, k, v, out, log_sum, bound, limit, rows, keys, heads, ROWS: tl.constexpr, KEYS: tl.constexpr):
    """Program (tile of `ROWS` queries, batch item * head); the online softmax for bounds above `limit`."""
    if tl.load(bound) <= limit:
        return
    head = tl.program_id(1) % heads
    item = (tl.program_id(1) // heads).to(tl.int64)
    stride = heads * 64
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, 64)
    q_place = (item * rows + row[:, None]) * stride + head * 64 + channel[None, :]
    queries = tl.load(q + q_place, mask=row[:, None] < rows, other=0.0)
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, 64], tl.float32)
    for start in range(0, keys, KEYS):
        key = start + tl.arange(0, KEYS)
        place = (item * keys + key[:, None]) * stride + head * 64 + channel[None, :]
        block = tl.load(k + place, mask=key[:, None] < keys, other=0.0)
        scores = tl.where(key[None, :] < keys, tl.dot(queries, tl.trans(block)), -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        block = tl.load(v + place, mask=key[:, None] < keys, other=0.0)
        acc = tl.dot(weights.to(tl.bfloat16), block, acc * shrink[:, None])
        top = new_top
    tl.store(out + q_place, (acc / total[:, None]).to(tl.bfloat16), mask=row[:, None] < rows)
    sums = (item * heads + head) * rows + row
    tl.store(log_sum + sums, (top + tl.log2(total)) * 0.6931471805599453, mask=row < rows)
