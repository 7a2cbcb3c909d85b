"""Real training runs through the command line and Ray Train on 1 .. N GPUs, in parts that cannot stop one another.

    python benchmarks/gpu_run.py all       --data manifest.parquet --output DIR --budget 540
    python benchmarks/gpu_run.py weak      --data ... --output DIR --workers 1 2 --budget 420
    python benchmarks/gpu_run.py strategies --data ... --output DIR --model mini --budget 240
    python benchmarks/gpu_run.py saves     --output DIR --save-preset 0.5b --budget 240
    python benchmarks/gpu_run.py small     --data ... --output DIR --budget 200
    python benchmarks/gpu_run.py continue  --data ... --output DIR --packed DIR_OF_PARTS --budget 200

weak: the same batch per worker on 1 and on 2 workers, samples per second and their ratio. strategies: DDP and FSDP2
side by side. saves: how long the loop waits for asynchronous checkpoints (`checkpoint_saves.py`). small: a run of the
preset `tiny` on all workers that is killed after a checkpoint and packed into `small_run.tar.N` of at most 15 MiB;
continue: unpacks it, on another machine, and trains it to its end on one worker. Every part ends within its budget of
seconds; what it learned is in OUTPUT/PART.json, curves in OUTPUT/PART.png, renders in OUTPUT/PART_heldout.jpg. Runs
themselves lie in --scratch. `--small` tries it all on a CPU.

The transformer is `mini` (2 blocks of width 1024, 20,000 points) with small encoders of our own, or `0.5b` with
encoders of the real size and random weights: the paper's pretrained ones cannot be had here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from training_results import curves_picture, run_summary, sheet_picture

from lhmforge.datasets.config_json import to_json
from lhmforge.datasets.loader import LoaderConfig
from lhmforge.jobs.config import DataConfig, HardwareConfig, TrainConfig, sources_of, train_config_from_json
from lhmforge.jobs.recipes import train_recipe
from lhmforge.jobs.run_record import RunFolder
from lhmforge.lhm_model.checkpoint import Retention, latest_checkpoint
from lhmforge.lhm_model.config import EncoderConfig, ModelConfig, preset, with_random_body_encoder
from lhmforge.lhm_model.losses import LossConfig
from lhmforge.lhm_model.optim import OptimConfig
from lhmforge.lhm_model.train_loop import LoopConfig

_PART_BYTES = 15 << 20
_HERE = Path(__file__).resolve().parent
_ENDED: dict[str, str] = {}  # how each process of the part in hand ended, by the name of its log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["all", *PARTS])
    parser.add_argument("--data", nargs="+", help="manifests")
    parser.add_argument("--data-weight", type=float, nargs="+", default=[], help="share of each manifest in a step")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, help="for runs and checkpoints (default: a temporary folder)")
    parser.add_argument("--budget", type=float, default=300, help="seconds of each part")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", choices=["mini", "0.5b"], default="mini", help="of weak and strategies")
    parser.add_argument("--save-preset", default="0.5b")
    parser.add_argument("--batch", type=int, default=8, help="samples per worker and step")
    parser.add_argument("--loaders", type=int, default=12, help="loader processes per worker")
    parser.add_argument("--num-eval", type=int, default=8)
    parser.add_argument("--step-seconds", type=float, help="known cost of a step (default: measured by a short run)")
    parser.add_argument("--no-compile", action="store_true", help="starts a minute sooner, then runs slower")
    parser.add_argument("--packed", type=Path, help="folder with small_run.tar.N (continue)")
    parser.add_argument("--small", action="store_true", help="the tiny model on a CPU: to try the script")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the run in progress is ended too
    args.output.mkdir(parents=True, exist_ok=True)
    args.scratch = args.scratch or Path(tempfile.mkdtemp(prefix="gpu_run_"))
    args.scratch.mkdir(parents=True, exist_ok=True)
    names = ["weak", "strategies", "saves", "small", "continue"] if args.part == "all" else [args.part]
    failed = []
    for name in names:
        started = time.monotonic()
        say(f"== {name}: {args.budget:.0f} s at most")
        try:
            result = PARTS[name](args, started + args.budget)
        except (OSError, ValueError, KeyError, RuntimeError, subprocess.SubprocessError) as error:
            result = {"error": f"{type(error).__name__}: {error}"}
            failed.append(name)
        result["ended"] = dict(_ENDED)
        if any(how not in ("exit status 0", "stopped") for how in _ENDED.values()) and name not in failed:
            failed.append(name)
        _ENDED.clear()
        result["seconds"] = round(time.monotonic() - started, 1)
        (args.output / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        say(json.dumps(result))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def weak(args: argparse.Namespace, deadline: float) -> dict[str, object]:
    """The same batch on each worker, on more and more workers."""
    base = run_config(args)
    step_s = args.step_seconds or _measured_step_seconds(args, base, deadline)
    say(f"one step of {args.batch} samples takes {step_s:.3f} s")
    runs: dict[str, object] = {}
    folders: dict[str, RunFolder] = {}
    rates: list[float] = []
    for index, workers in enumerate(args.workers):
        allowed = (deadline - time.monotonic()) / (len(args.workers) - index)
        steps = max(12, int((allowed - _start_seconds(args)) * 0.9 / step_s))
        config = spread(base, workers, steps)
        folder = train(args, f"weak_{workers}", config, seconds=allowed)
        folders[f"{workers} workers"] = folder
        runs[str(workers)] = summary = run_summary(folder)
        rates.append(float(summary["samples_per_s"]))
    curves_picture(folders, args.output / "weak.png")
    sheet_picture(folders[f"{args.workers[-1]} workers"], args.output / "weak_heldout.jpg")
    alone = rates[0] or float("nan")  # a run cut off before its first report has no rate
    scaling = {str(workers): round(rate / alone, 4) for workers, rate in zip(args.workers, rates, strict=True)}
    return {"step_seconds_alone": step_s, "weak_scaling": scaling, "runs": runs}


def strategies(args: argparse.Namespace, deadline: float) -> dict[str, object]:
    """DDP and FSDP2 on all workers: the same first losses, throughput, memory."""
    workers = args.workers[-1]
    runs: dict[str, object] = {}
    losses: list[list[float]] = []
    folders: dict[str, RunFolder] = {}
    for index, strategy in enumerate(("ddp", "fsdp")):
        config = spread(run_config(args), workers, 12 if args.small else 40)
        config = replace(
            config,
            loop=replace(config.loop, log_every=1, evaluate_every=0),
            hardware=replace(config.hardware, strategy=strategy),
        )
        folder = train(args, strategy, config, seconds=(deadline - time.monotonic()) / (2 - index))
        folders[strategy] = folder
        runs[strategy] = summary = run_summary(folder)
        losses.append(list(summary["losses"])[:20])
    pairs = list(zip(*losses, strict=False))
    curves_picture(folders, args.output / "strategies.png")
    if not pairs:
        raise RuntimeError("a run ended before its first report; give it more seconds (--budget)")
    difference = max(abs(a - b) / abs(a) for a, b in pairs)
    return {"workers": workers, "compared_losses": len(pairs), "largest_relative_difference": difference, "runs": runs}


def saves(args: argparse.Namespace, deadline: float) -> dict[str, object]:
    """Asynchronous saves of a model of the real size, alone and shared by all workers."""
    name = "tiny" if args.small else args.save_preset
    device = "cpu" if args.small else "cuda"
    results: dict[str, object] = {}
    cases = [(1, "ddp")] + [(args.workers[-1], kind) for kind in ("ddp", "fsdp") if args.workers[-1] > 1]
    for index, (workers, strategy) in enumerate(cases):
        table = args.scratch / f"saves_{workers}_{strategy}.json"
        command = [sys.executable, str(_HERE / "checkpoint_saves.py"), "--preset", name, "--device", device]
        command += ["--workers", str(workers), "--strategy", strategy, "--folder", str(args.scratch / "saves")]
        command += ["--json", str(table)]
        _child(command, seconds=(deadline - time.monotonic()) / (len(cases) - index), log=table.with_suffix(".log"))
        results[f"{workers}_{strategy}"] = json.loads(table.read_text()) if table.is_file() else "see the log above"
    return {"preset": name, "cases": results}


def small(args: argparse.Namespace, deadline: float) -> dict[str, object]:
    """A run of the preset `tiny` on all workers, killed after a checkpoint in mid-run, packed to travel."""
    steps = 24 if args.small else 400
    config = _small_config(args, steps, workers=args.workers[-1])
    reached = steps // 2

    def enough(folder: RunFolder) -> bool:
        newest = latest_checkpoint(folder.checkpoints)
        return newest is not None and newest.name >= f"step_{reached:08d}"

    folder = train(args, "small", config, seconds=deadline - time.monotonic(), stop_when=enough)
    newest = latest_checkpoint(folder.checkpoints)
    if newest is None:
        raise RuntimeError("no checkpoint was published; see the log above")
    parts = _pack([folder.config, folder.metrics, newest], folder.root, args.output)
    size = sum(path.stat().st_size for path in newest.iterdir())
    return {
        "checkpoint": newest.name,
        "checkpoint_bytes": size,
        "parts": [path.name for path in parts],
        "world_size": args.workers[-1],
        "losses": run_summary(folder)["losses"],
    }


def continued(args: argparse.Namespace, deadline: float) -> dict[str, object]:
    """Goes on with the packed run on one worker, to its last step."""
    root = args.scratch / "continued"
    _unpack(args.packed or args.output, root)
    folder = RunFolder(root)
    before = train_config_from_json(json.loads(folder.config.read_text()), where=str(folder.config))
    newest = latest_checkpoint(folder.checkpoints)
    if newest is None:
        raise RuntimeError(f"{root}: the parts hold no checkpoint")
    start = newest.name
    hardware = replace(_hardware(args, 1), strategy=before.hardware.strategy, compile=before.hardware.compile)
    data = replace(before.data, sources=sources_of(args.data, args.data_weight))
    config = replace(before, data=data, hardware=hardware)
    train(args, "continued", config, seconds=deadline - time.monotonic())
    curves_picture({"two workers, then one": folder}, args.output / "continue.png")
    return {"from": start, "workers_before": before.hardware.num_workers, "run": run_summary(folder)}


PARTS: dict[str, Callable[[argparse.Namespace, float], dict[str, object]]] = {
    "weak": weak,
    "strategies": strategies,
    "saves": saves,
    "small": small,
    "continue": continued,
}


def train(
    args: argparse.Namespace,
    name: str,
    config: TrainConfig,
    *,
    seconds: float,
    stop_when: Callable[[RunFolder], bool] | None = None,
) -> RunFolder:
    """`lhmforge train` in a process of its own, killed with all its children when `seconds` are over."""
    path = args.scratch / f"{name}.config.json"
    path.write_text(json.dumps(to_json(config), indent=1))
    folder = RunFolder(args.scratch / name)
    say(f"-- {name}: {config.loop.num_steps} steps, {config.hardware.num_workers} workers, {seconds:.0f} s at most")
    command = [sys.executable, "-m", "lhmforge.jobs.cli", "train", "--config", str(path)]
    command += ["--output", str(folder.root), "--resume"]
    _child(command, seconds=seconds, log=args.scratch / f"{name}.log", stop=stop_when and (lambda: stop_when(folder)))
    return folder


def _child(command: list[str], *, seconds: float, log: Path, stop: Callable[[], bool] | None = None) -> None:
    """Runs `command` to its end, until `stop` holds, or until the time is over; says how it ended."""
    ends = time.monotonic() + max(5.0, seconds)
    paths = os.pathsep.join(filter(None, (str(_HERE.parent), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": paths}
    with log.open("w") as stream:
        child = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True, env=environment)
        try:
            while child.poll() is None and time.monotonic() < ends and not (stop and stop()):
                time.sleep(0.3)
        finally:
            ended = child.poll()
            if ended is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                time.sleep(3.0)  # Ray's own processes notice and go
    how = _ENDED[log.stem] = "stopped" if ended is None else f"exit status {ended}"
    tail = log.read_text(errors="replace").replace("\r", "\n").splitlines()[-1 if ended == 0 else -15 :]
    say(f"   {how}: " + "\n      ".join(line[-400:] for line in tail))


def run_config(args: argparse.Namespace) -> TrainConfig:
    """The configuration of one worker; workers and steps are set by `spread`."""
    on_cpu = args.small
    return TrainConfig(
        data=DataConfig(sources=sources_of(args.data, args.data_weight), num_eval=args.num_eval),
        model=preset("tiny") if on_cpu else _model(args.model),
        loader=LoaderConfig(
            batch_size=args.batch,
            num_target_views=2 if on_cpu else 4,
            source_size=(96, 160) if on_cpu else (320, 512),
            target_size=(48, 80) if on_cpu else (320, 512),
            head_size=96 if on_cpu else 448 if args.model == "0.5b" else 224,
            half_body_probability=0.2,
            num_workers=args.loaders,
            prefetch_batches=3,
        ),
        loss=LossConfig(colour="5", mask="0:2:1:500", asap="0:1:10:1000", acap="0:1:100:1000"),
        optim=OptimConfig(learning_rate=4e-4, warmup_steps=50, grad_clip=1.0, weight_decay=0.02),
        loop=LoopConfig(
            num_steps=1000,
            global_batch_size=args.batch,
            log_every=2 if on_cpu else 10,
            evaluate_every=0,
            checkpoint_every=0,
            precision="float32" if on_cpu else "bfloat16",
        ),
        hardware=_hardware(args, 1),
        retention=Retention(keep_last=1),
        perceptual="alex",
    )


def spread(base: TrainConfig, workers: int, steps: int) -> TrainConfig:
    """The same batch per worker on more workers."""
    batch = workers * base.loader.batch_size
    loop = replace(base.loop, num_steps=steps, global_batch_size=batch, evaluate_every=max(1, steps // 3))
    return replace(base, loop=loop, hardware=replace(base.hardware, num_workers=workers))


def _model(name: str) -> ModelConfig:
    """`mini` with splats that start visible, since a short run ends where the paper's schedule begins; or 0.5b."""
    if name == "0.5b":
        return with_random_body_encoder(preset("0.5b"))
    model = preset("mini")
    return replace(
        model,
        name="mini-own-encoders",
        body_encoder=EncoderConfig(kind="small", image_size=512, patch_size=16, channels=512, depth=6, num_heads=8),
        head_encoder=EncoderConfig(kind="small", image_size=224, patch_size=16, channels=384, depth=4, num_heads=6),
        gaussian_head=replace(model.gaussian_head, initial_opacity=0.5, clip_start_step=1, clip_end_step=400),
    )


def _small_config(args: argparse.Namespace, steps: int, *, workers: int) -> TrainConfig:
    data = DataConfig(sources=sources_of(args.data, args.data_weight), num_eval=args.num_eval)
    config = train_recipe("tiny", data=data, num_steps=steps, hardware=replace(_hardware(args, workers), compile=False))
    loop = replace(config.loop, global_batch_size=4, checkpoint_every=max(1, steps // 10), log_every=2)
    return replace(config, loop=loop, retention=Retention(keep_last=1))


def _hardware(args: argparse.Namespace, workers: int) -> HardwareConfig:
    device = "cpu" if args.small else "cuda"
    threads = 1 if args.small else 2
    return HardwareConfig(
        num_workers=workers,
        device=device,
        threads_per_worker=threads,
        compile=not (args.small or args.no_compile),
        max_failures=0,
    )


def _measured_step_seconds(args: argparse.Namespace, base: TrainConfig, deadline: float) -> float:
    """From a short run of one worker, which also fills the compiler's cache for the runs that count."""
    loop = replace(base.loop, log_every=2, evaluate_every=0)
    probe = spread(replace(base, loop=loop), 1, 10)
    probe = replace(probe, loop=replace(probe.loop, evaluate_every=0))
    summary = run_summary(train(args, "probe", probe, seconds=(deadline - time.monotonic()) / 2))
    return float(summary["step_s"])


def _start_seconds(args: argparse.Namespace) -> float:
    """What a run spends before its first and after its last step: Ray, compiling from the cache, evaluations."""
    return 25.0 if args.small else 60.0


def _pack(paths: list[Path], root: Path, output: Path) -> list[Path]:
    """A tar of `paths` (relative to `root`) cut into parts that a small mailbox takes."""
    whole = output / "small_run.tar"
    with tarfile.open(whole, "w") as archive:
        for path in paths:
            archive.add(path, arcname=str(path.relative_to(root)))
    data = whole.read_bytes()
    whole.unlink()
    parts = []
    for number, start in enumerate(range(0, len(data), _PART_BYTES)):
        parts.append(output / f"small_run.tar.{number}")
        parts[-1].write_bytes(data[start : start + _PART_BYTES])
    return parts


def _unpack(packed: Path, root: Path) -> None:
    parts = sorted(packed.glob("small_run.tar.*"), key=lambda path: int(path.suffix[1:]))
    if not parts:
        raise OSError(f"{packed}: no small_run.tar.N there; run the part `small` first")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as whole:
        for part in parts:
            whole.write(part.read_bytes())
        whole.seek(0)
        with tarfile.open(fileobj=whole) as archive:
            archive.extractall(root, filter="data")


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


if __name__ == "__main__":
    main()
