"""A real training run of `mini` from shards through Ray Train on 1 .. N GPUs, each for a given time, and weak scaling.

Run: python benchmarks/gpu_run.py --data manifest.parquet --output DIR --workers 1 2 --seconds 120 240

The transformer is `mini` (2 blocks of width 1024, 20,000 points). The pretrained encoders of the paper cannot be had
here, so both encoders are small ones of our own, trained from nothing. Each worker gets the same batch, so the global
batch grows with the workers. Prints samples per second (median over reports, warm-up left out) and the efficiency.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

from lhmforge.datasets.loader import LoaderConfig
from lhmforge.jobs.config import DataConfig, HardwareConfig, TrainConfig
from lhmforge.jobs.metrics_log import read_entries
from lhmforge.jobs.run_record import RunFolder
from lhmforge.jobs.step_cost import measure_step_seconds
from lhmforge.jobs.train import run_training
from lhmforge.lhm_model.config import EncoderConfig, ModelConfig, preset
from lhmforge.lhm_model.losses import LossConfig
from lhmforge.lhm_model.optim import OptimConfig
from lhmforge.lhm_model.train_loop import LoopConfig

_WARM_UP_REPORTS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, nargs="+", default=[120, 240], help="training time of each run")
    parser.add_argument("--steps", type=int, nargs="+", help="instead of --seconds: optimiser steps of each run")
    parser.add_argument("--batch", type=int, default=8, help="samples per worker and step")
    parser.add_argument("--loaders", type=int, default=12, help="loader processes per worker")
    parser.add_argument("--num-eval", type=int, default=8)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="the tiny model: to try the script on a CPU")
    args = parser.parse_args()
    base = run_config(args)
    step_seconds = 0.0 if args.steps else measure_step_seconds(base)
    print(f"one step of {args.batch} samples alone: {step_seconds} s", flush=True)
    rates = {}
    for index, workers in enumerate(args.workers):
        steps = args.steps[index] if args.steps else max(40, int(args.seconds[index] / (step_seconds or 1.0)))
        output = args.output / f"workers_{workers}"
        record = run_training(spread(base, workers, steps), output)
        values = [entry.values for entry in read_entries(RunFolder(output).metrics) if "samples_per_s" in entry.values]
        steady = values[_WARM_UP_REPORTS:] or values
        rates[workers] = statistics.median(value["samples_per_s"] for value in steady)
        shown = {name: statistics.median(v.get(name, 0.0) for v in steady) for name in ("step_s", "fetch_s", "mfu")}
        print(f"{workers} workers, {steps} steps, {record.seconds:.0f} s: {rates[workers]:.1f} samples/s, {shown}")
        print(f"  held out: {json.dumps(record.metrics)}", flush=True)
    first = args.workers[0]
    for workers, rate in rates.items():
        print(f"weak scaling {first} -> {workers}: {rate / rates[first]:.3f} x")


def run_config(args: argparse.Namespace) -> TrainConfig:
    """The configuration of one worker; the number of steps is set later."""
    return TrainConfig(
        data=DataConfig(manifest=str(args.data), num_eval=args.num_eval),
        model=preset("tiny") if args.small else mini_with_own_encoders(),
        loader=LoaderConfig(
            batch_size=args.batch,
            num_target_views=4,
            source_size=(320, 512),
            target_size=(96, 160) if args.small else (320, 512),
            head_size=96 if args.small else 224,
            half_body_probability=0.2,
            num_workers=args.loaders,
            prefetch_batches=3,
        ),
        loss=LossConfig(colour="5", mask="0:2:1:500", asap="0:1:10:1000", acap="0:1:100:1000"),
        optim=OptimConfig(learning_rate=4e-4, warmup_steps=50, grad_clip=1.0, weight_decay=0.02),
        loop=LoopConfig(
            num_steps=1000,
            global_batch_size=args.batch,
            log_every=10,
            evaluate_every=0,
            checkpoint_every=0,
            precision="bfloat16" if args.device == "cuda" else "float32",
        ),
        hardware=HardwareConfig(
            num_workers=1, device=args.device, threads_per_worker=2, compile=args.device == "cuda", max_failures=0
        ),
        perceptual="alex",
    )


def mini_with_own_encoders() -> ModelConfig:
    """The transformer of `mini`; splats start visible, since a short run ends where the paper's schedule begins."""
    model = preset("mini")
    return replace(
        model,
        name="mini-own-encoders",
        body_encoder=EncoderConfig(kind="small", image_size=512, patch_size=16, channels=512, depth=6, num_heads=8),
        head_encoder=EncoderConfig(kind="small", image_size=224, patch_size=16, channels=384, depth=4, num_heads=6),
        gaussian_head=replace(model.gaussian_head, initial_opacity=0.5, clip_start_step=1, clip_end_step=400),
    )


def spread(base: TrainConfig, workers: int, steps: int) -> TrainConfig:
    """The same batch per worker on more workers."""
    loop = replace(
        base.loop,
        num_steps=steps,
        global_batch_size=workers * base.loader.batch_size,
        evaluate_every=max(1, steps // 3),
    )
    return replace(base, loop=loop, hardware=replace(base.hardware, num_workers=workers))


if __name__ == "__main__":
    main()
