"""Checks and times the transformer at its real size on a CUDA device, against the anchors of the project.

Run: python benchmarks/transformer.py [--presets 0.5b 0.7b 1b] [--kernels cudnn flash4] [--output rows.json]
Every kernel is compared with a float32 reference before it is timed. Batch 1; forward in bfloat16, forward + backward
with float32 weights under bfloat16 autocast, nothing recomputed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lhmforge.lhm_model.attention import KERNELS, Kernel, attend, kernel_available, resolve_kernel, takes_bound
from lhmforge.lhm_model.attention_bounded import QUERY_FACTOR
from lhmforge.lhm_model.config import preset, with_random_body_encoder
from lhmforge.lhm_model.network import LHMNetwork, halve_weights, transformer_config
from lhmforge.lhm_model.summary import transformer_flops
from lhmforge.lhm_model.token_layout import TokenLayout, token_layout
from lhmforge.lhm_model.transformer import BodyHeadTransformer, linear_gelu

# (preset, measurement) -> milliseconds on an H200: public code in bf16, the same compiled, goal with torch, with FA4.
ANCHORS = {
    ("0.5b", "forward"): (141, 125, 118, 95),
    ("0.7b", "forward"): (274, 240, 225, 185),
    ("1b", "forward"): (412, 351, 335, 275),
    ("0.5b", "forward+backward"): (452, 392, 370, 310),
    ("1b", "forward+backward"): (None, 1174, 1100, 920),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement; `error` is the relative distance from float32 where it was checked."""

    preset: str
    measurement: str
    kernel: str
    compiled: bool
    milliseconds: float
    tflops: float
    peak_gb: float
    error: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["0.5b", "0.7b", "1b"])
    parser.add_argument("--kernels", nargs="+", default=["cudnn", "flash4"], choices=KERNELS)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--budget-s", type=float, default=1e9, help="stop starting new measurements after this time")
    parser.add_argument("--end-to-end", action="store_true", help="also image -> Gaussians with random encoders")
    parser.add_argument("--eager", action="store_true", help="also 0.5b without the compiler")
    parser.add_argument("--profile", action="store_true", help="also print where the time of the first preset goes")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch._dynamo.config.recompile_limit = 64
    started, rows = time.monotonic(), []
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    kernels = [resolve_kernel(kernel) for kernel in args.kernels if kernel_available(kernel)]
    for kernel in kernels:
        for spread in (1.0, 6.0):
            check_attention(kernel, spread)
        check_feed_forward()
        time_attention(kernel, args.repeats)
    for name in args.presets:
        for measure in (measure_forward, measure_training) if name != "0.7b" else (measure_forward,):
            eager = [(kernels[0], False)] if args.eager and name == "0.5b" else []
            for kernel, compiled in [*eager, *((kernel, True) for kernel in kernels)]:
                if time.monotonic() - started > args.budget_s:
                    continue
                rows.append(
                    measure(name, kernel, compiled, args.repeats, args.profile and name == args.presets[0] and compiled)
                )
                report(rows[-1], time.monotonic() - started)
                if args.output:
                    args.output.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if args.end_to_end:
        for name in args.presets:
            rows.append(measure_image_to_gaussians(name, kernels[-1], args.repeats))
            report(rows[-1], time.monotonic() - started)
            if args.output:
                args.output.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def report(row: Row, elapsed_s: float) -> None:
    """Prints one line of the table."""
    anchor = ANCHORS.get((row.preset, row.measurement))
    error = "" if row.error is None else f" error {row.error:.1e}"
    print(
        f"[{elapsed_s:5.0f} s] {row.preset:<5} {row.measurement:<17} {row.kernel:<7} "
        f"{'compiled' if row.compiled else 'eager':<8} {row.milliseconds:8.1f} ms {row.tflops:6.0f} TFLOP/s "
        f"{row.peak_gb:5.1f} GB{error}  anchors (bf16, compiled, goal, goal FA4): {anchor}",
        flush=True,
    )


def check_attention(kernel: Kernel, spread: float = 1.0) -> None:
    """Value and gradients of a kernel in bfloat16 against the float32 reference; raises when they are off.

    Queries are `spread` times wider than keys: 6 makes bounds that are too large for the kernels without a maximum.
    """
    generator = torch.Generator("cuda").manual_seed(0)
    inputs = [torch.randn(1, n, 4, 64, device="cuda", generator=generator) for n in (1500, 2111, 2111)]
    inputs[0] *= spread
    weight = torch.randn(1, 1500, 4, 64, device="cuda", generator=generator)
    exact = [tensor.clone().requires_grad_() for tensor in inputs]
    reference = attend(exact[0], exact[1], exact[2], "math")
    (reference * weight).sum().backward()
    half = [tensor.bfloat16().requires_grad_() for tensor in inputs]
    out = attend_bounded(half[0], half[1], half[2], kernel)
    (out.float() * weight).sum().backward()
    errors = [relative(out, reference)]
    for ours, theirs in zip(half, exact, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        errors.append(relative(ours.grad, theirs.grad))
    print(f"check {kernel} x{spread:g}: relative error of value, dq, dk, dv: {', '.join(f'{e:.1e}' for e in errors)}")
    assert max(errors) < 2e-2, f"{kernel} is wrong"


def attend_bounded(q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
    """`attend`, with the bound that a kernel may want taken from the inputs."""
    if not takes_bound(kernel, q):
        return attend(q, k, v, kernel)
    with torch.no_grad():
        bound = q.float().norm(dim=-1).amax() * k.float().norm(dim=-1).amax() / q.shape[-1] ** 0.5
    return attend(q * QUERY_FACTOR, k, v, kernel, bound)


def check_feed_forward() -> None:
    """The fused product with GELU of inference against float32; raises when it is off."""
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape, device="cuda") for shape in ((1, 777, 256), (512, 256), (512,)))
    weight = weight / 16
    exact = F.gelu(F.linear(x, weight, bias), approximate="tanh")
    ours = linear_gelu(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    single = linear_gelu(x, weight, bias)
    print(f"check linear_gelu: relative error bf16 {relative(ours, exact):.1e}, fp32 {relative(single, exact):.1e}")
    assert relative(ours, exact) < 1e-2


def print_profile(run: Callable[[], object]) -> None:
    """Device time by kernel over one call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    for event in events[:40]:
        print(f"    {event.self_device_time_total / 1e3:8.2f} ms {event.count:5d} x {event.key[:110]}")


def time_attention(kernel: Kernel, repeats: int) -> None:
    """The body sub-block's attention alone, at the real size."""
    q, k, v = (torch.randn(1, 44096, 16, 64, device="cuda") for _ in range(3))
    bound = None
    if takes_bound(kernel, q.bfloat16()):
        bound = q.norm(dim=-1).amax() * k.norm(dim=-1).amax() / 8
        q = q * QUERY_FACTOR
    q, k, v = (tensor.bfloat16().requires_grad_() for tensor in (q, k, v))
    grad = torch.randn_like(q)

    def both() -> None:
        torch.autograd.grad(attend(q, k, v, kernel, bound), (q, k, v), grad)

    with torch.no_grad():
        forward = median_ms(lambda: attend(q, k, v, kernel, bound), repeats)
    total = median_ms(both, repeats)
    flops = 4 * 44096**2 * 1024 / 1e9
    print(f"attention {kernel}: forward {forward:.2f} ms {flops / forward:.0f} TFLOP/s, backward "
          f"{total - forward:.2f} ms {2.5 * flops / (total - forward):.0f} TFLOP/s", flush=True)  # fmt: skip


def measure_forward(name: str, kernel: Kernel, compiled: bool, repeats: int, profile: bool) -> Row:
    """Forward pass in bfloat16; its result is compared with float32 on the same weights for the smallest preset."""
    model, inputs = build(name, kernel), make_inputs(name, torch.bfloat16)
    reference = None
    with torch.no_grad():
        if name == "0.5b":
            model.kernel = "sdpa"
            reference = model(**{key: value.float() for key, value in inputs.items()}, layout=layout_of(name))
            model.kernel = kernel
        model.bfloat16()
        if compiled:
            compile_blocks(model)

        def run() -> Tensor:
            return model(**inputs, layout=layout_of(name))

        error = None if reference is None else relative(run(), reference)
        del reference
        torch.cuda.reset_peak_memory_stats()
        milliseconds = median_ms(run, repeats)
        if profile:
            print_profile(run)
    return make_row(name, "forward", kernel, compiled, milliseconds, 1.0, error)


def measure_training(name: str, kernel: Kernel, compiled: bool, repeats: int, profile: bool) -> Row:
    """Forward and backward pass with respect to weights and tokens."""
    model = build(name, kernel)
    if compiled:
        compile_blocks(model)
    inputs = make_inputs(name, torch.bfloat16)
    inputs = {key: value.requires_grad_(key != "body_tokens") for key, value in inputs.items()}
    weight = torch.randn_like(inputs["points"])

    def run() -> None:
        for tensor in (*model.parameters(), *inputs.values()):
            tensor.grad = None
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out = model(**inputs, layout=layout_of(name))
        out.backward(weight.to(out.dtype))

    run()
    torch.cuda.reset_peak_memory_stats()
    milliseconds = median_ms(run, repeats)
    if profile:
        print_profile(run)
    return make_row(name, "forward+backward", kernel, compiled, milliseconds, 3.0)


def measure_image_to_gaussians(name: str, kernel: Kernel, repeats: int) -> Row:
    """From a source image and a head crop on the device to canonical Gaussians, encoders of the real size."""
    with torch.device("cuda"):
        network = LHMNetwork(with_random_body_encoder(preset(name))).eval()
    network.set_attention_kernel(kernel)
    halve_weights(network)
    compile_blocks(network.transformer)
    torch.cuda.empty_cache()
    source, head = torch.rand(1, 3, 840, 504, device="cuda"), torch.rand(1, 3, 448, 448, device="cuda")
    seen, points = torch.ones(1, dtype=torch.bool, device="cuda"), torch.rand(network.layout.points, 3, device="cuda")

    @torch.no_grad()
    def run() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            network.decode(source_image=source, head_image=head, head_valid=seen, canonical_points=points)

    run()
    torch.cuda.reset_peak_memory_stats()
    milliseconds = median_ms(run, repeats)
    return make_row(name, "image->gaussians", kernel, True, milliseconds, 1.0)


def build(name: str, kernel: Kernel) -> BodyHeadTransformer:
    torch.manual_seed(0)
    torch.cuda.empty_cache()
    with torch.device("cuda"):
        return BodyHeadTransformer(transformer_config(preset(name)), kernel=kernel)


def compile_blocks(model: BodyHeadTransformer) -> None:
    """Compiles block by block: equal blocks share one graph, so depth costs no compile time."""
    for block in model.blocks:
        block.compile(fullgraph=True, dynamic=False)


def layout_of(name: str) -> TokenLayout:
    return token_layout(preset(name))


def make_inputs(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    config, layout = preset(name), layout_of(name)
    generator = torch.Generator("cuda").manual_seed(1)
    draw = lambda *shape: torch.randn(shape, device="cuda", generator=generator).to(dtype)  # noqa: E731
    return {
        "points": draw(1, layout.points, config.width),
        "body_tokens": draw(1, layout.body_tokens, config.body_encoder.channels),
        "head_tokens": draw(1, layout.head_tokens, config.head_encoder.channels),
        "modulation": draw(1, 2 * config.width),
    }


def make_row(
    name: str, measurement: str, kernel: Kernel, compiled: bool, ms: float, passes: float, error: float | None = None
) -> Row:
    flops = passes * transformer_flops(preset(name), skip_unused_queries=True).total
    return Row(
        preset=name, measurement=measurement, kernel=kernel, compiled=compiled, milliseconds=ms,
        tflops=flops / ms / 1e9, peak_gb=torch.cuda.max_memory_allocated() / 1e9, error=error,
    )  # fmt: skip


def median_ms(run: Callable[[], object], repeats: int) -> float:
    """Median time of `run` on the device, after two warm-up calls."""
    times = []
    for index in range(repeats + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if index >= 2:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def relative(ours: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    return float((ours.float() - reference.float()).norm() / reference.float().norm())


if __name__ == "__main__":
    main()
