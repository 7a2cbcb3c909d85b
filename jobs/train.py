"""One training run from a config to a run record: validated, resumable, tracked."""

from __future__ import annotations

import json
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from lhmforge.datasets import storage
from lhmforge.datasets.config_json import differences, to_json
from lhmforge.datasets.errors import CheckpointError, ConfigError
from lhmforge.datasets.keyed import ids_digest
from lhmforge.jobs.config import TrainConfig, train_config_from_json
from lhmforge.jobs.fatal import raise_fatal
from lhmforge.jobs.metrics_log import Entry, Follower
from lhmforge.jobs.run_record import RunFolder, RunRecord, git_revision, load_record, save_record
from lhmforge.jobs.tracking import TrackedRun, TrackingTarget, local_target
from lhmforge.jobs.training_data import TrainingData, choose_data
from lhmforge.lhm_model.checkpoint import latest_checkpoint, read_record
from lhmforge.lhm_model.checkpoint_read import export_model
from lhmforge.lhm_model.train_loop import num_passes

_log = logging.getLogger(__name__)


def run_training(
    config: TrainConfig,
    output: Path,
    *,
    resume: bool = False,
    tracking: TrackingTarget | None = None,
    name: str | None = None,
) -> RunRecord:
    """Trains into the folder `output` and returns its record; a finished run is returned as it is.

    `resume` continues the newest checkpoint of the same configuration (hardware may differ) and also starts where
    there is none yet. `tracking` defaults to a SQLite store in `output`.

    Raises:
        ConfigError: the folder holds another run, or a run and `resume` is off.
        DivergenceError: a loss or gradient was not finite.
        DeviceMemoryError: the GPU is too small; says which settings to lower.
        ForgeError: anything else the user can fix (manifest, shards, body, weights).
    """
    folder = RunFolder(output)
    data = choose_data(config.data)
    num_passes(
        config.loop.global_batch_size, batch_size=config.loader.batch_size, world_size=config.hardware.world_size
    )
    finished = _enter_folder(config, folder, resume)
    if finished is not None:
        return finished
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        # Importing MLflow and creating its store takes as long as starting Ray does; they happen side by side.
        opening = pool.submit(_open_tracking, config, data, folder, tracking or local_target(output), name)
        bar = stack.enter_context(tqdm(total=config.loop.num_steps, desc=f"train {output.name}", unit="step"))
        try:
            with Follower(folder.metrics, _Mirror(opening, bar)):
                _launch_and_listen(config, folder)
        except BaseException:
            opening.result().finish(failed=True)
            raise
        record = _make_record(config, data, folder)
        export_model(folder.checkpoints, folder.exported)
        save_record(record, folder.record)
        _finish_tracking(opening.result(), folder)
    return record


class _Mirror:
    """Feeds the progress bar and, once it is open, the tracked run."""

    def __init__(self, opening: Future[TrackedRun], bar: tqdm) -> None:
        self._opening, self._bar = opening, bar

    def __call__(self, entry: Entry) -> None:
        self._bar.update(max(0, entry.step - self._bar.n))
        shown = {name: entry.values[name] for name in ("loss", "eval_psnr") if name in entry.values}
        if shown:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()})
        self._opening.result().metrics(entry.step, entry.values, time_s=entry.time_s)


def _launch_and_listen(config: TrainConfig, folder: RunFolder) -> None:
    """Runs the workers; what one of them wrote down as fatal says more than that it was lost."""
    try:
        _launch(config, folder)
    finally:
        raise_fatal(folder)


def _launch(config: TrainConfig, folder: RunFolder) -> None:
    if config.hardware.num_workers:
        from lhmforge.jobs.ray_training import train_on_ray

        train_on_ray(config, folder)
        return
    import torch

    from lhmforge.jobs.training_worker import train_worker
    from lhmforge.lhm_model.parallel import SingleProcess

    device = torch.device(config.hardware.device)
    train_worker(config, folder, group=SingleProcess(), device=device, announce=lambda _: None)


def _enter_folder(config: TrainConfig, folder: RunFolder, resume: bool) -> RunRecord | None:
    """Claims the folder for `config`; returns the record if the run in it is finished."""
    if folder.config.is_file():
        if not resume:
            raise ConfigError(f"{folder.root} already holds a run; continue it with --resume or choose another folder")
        before = train_config_from_json(json.loads(folder.config.read_text()), where=str(folder.config))
        if before.fingerprint != config.fingerprint:
            lines = [line for line in differences(before, config) if ".hardware." not in line]
            raise ConfigError(f"{folder.root} holds a run of another configuration: {'; '.join(lines)}")
        record = load_record(folder.record)
        if record is not None:
            _log.info("%s is finished already", folder.root)
            return record
        folder.fatal.unlink(missing_ok=True)
    storage.publish(folder.config, (json.dumps(to_json(config), indent=1).encode() + b"\n",))
    return None


def _make_record(config: TrainConfig, data: TrainingData, folder: RunFolder) -> RunRecord:
    """Collects what the finished run left in its folder."""
    newest = latest_checkpoint(folder.checkpoints)
    if newest is None:
        raise CheckpointError(f"{folder.checkpoints}: the run ended without a checkpoint")
    checkpoint = read_record(newest)
    assert checkpoint.step == config.loop.num_steps, f"ended at step {checkpoint.step} of {config.loop.num_steps}"
    evaluation = json.loads(folder.evaluation.read_text())
    return RunRecord(
        run_id=run_id(config, data),
        config_fingerprint=config.fingerprint,
        data_digest=data.manifest.digest,
        subset_digest=data.train_digest,
        evaluation_digest=data.eval_digest,
        curation_fingerprints=data.curation_fingerprints,
        unique_clips=len(data.train_ids),
        samples_seen=checkpoint.samples_seen,
        epochs=checkpoint.samples_seen / len(data.train_ids),
        steps=checkpoint.step,
        seconds=checkpoint.seconds,
        world_size=config.hardware.world_size,
        device=config.hardware.device,
        seed=config.seed,
        preset=config.model.name,
        num_parameters=checkpoint.num_parameters,
        metrics=evaluation["means"],
        git_revision=git_revision(),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def run_id(config: TrainConfig, data: TrainingData) -> str:
    """Names a run by what it computes and on which data."""
    return f"{config.fingerprint}-{data.train_digest[:8]}-{data.eval_digest[:8]}"


def _open_tracking(
    config: TrainConfig, data: TrainingData, folder: RunFolder, target: TrackingTarget, name: str | None
) -> TrackedRun:
    tracked = TrackedRun(
        target, run_id=f"{run_id(config, data)}@{folder.root.resolve()}", name=name or folder.root.name
    )
    tracked.params({"fingerprint": config.fingerprint, "config": to_json(config)})
    sources = dict(zip(config.data.names, config.data.sources, strict=True))
    inputs = [("evaluation", "evaluation_clips", data.eval_ids, config.data.sources[0].manifest)]
    for part in data.parts:
        name = "training_clips" if len(data.parts) == 1 else f"training_clips_{part.name}"
        inputs.append(("training", name, part.ids, sources[part.name].manifest))
    for context, name, ids, manifest in inputs:
        tracked.dataset(
            name=name, digest=ids_digest(ids), source=manifest, context=context, profile={"clips": len(ids)}
        )
    tracked.artifact(folder.config)
    return tracked


def _finish_tracking(tracked: TrackedRun, folder: RunFolder) -> None:
    for path in (folder.record, folder.evaluation):
        tracked.artifact(path)
    for path in sorted(folder.renders.glob("*.png")):
        tracked.artifact(path, folder="renders")
    tracked.finish()
