"""Losing one Ray Train worker in mid-run changes nothing; a full GPU is told once and not tried again."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from lhmforge.datasets.errors import DeviceMemoryError
from lhmforge.jobs import train as train_module
from lhmforge.jobs.config import HardwareConfig, TrainConfig
from lhmforge.jobs.metrics_log import read_entries
from lhmforge.jobs.run_record import RunFolder
from lhmforge.jobs.tracking import local_target
from lhmforge.jobs.train import run_training
from lhmforge.jobs.training_worker import train_worker
from lhmforge.lhm_model.checkpoint import latest_checkpoint
from lhmforge.lhm_model.checkpoint_files import read_tensors
from lhmforge.lhm_model.parallel import SingleProcess

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.ray
def test_a_killed_ray_worker_is_replaced_and_the_result_is_the_same(
    small_config: TrainConfig, tmp_path: Path, ray_session: None
) -> None:
    """One of two worker processes gets SIGKILL after the first checkpoint; compared bit for bit, sharded strategy."""
    pair = HardwareConfig(num_workers=2, strategy="fsdp", max_failures=1)
    config = replace(
        small_config,
        loop=replace(small_config.loop, num_steps=12, checkpoint_every=3),
        optim=replace(small_config.optim, ema_decay=0.9),
        hardware=pair,
    )
    whole = run_training(config, tmp_path / "whole")
    killer = _Killer(RunFolder(tmp_path / "cut"))
    killer.start()
    cut = run_training(config, tmp_path / "cut")
    killer.join()
    assert killer.killed and killer.killed != os.getpid()
    assert len(list((tmp_path / "cut" / "ray").iterdir())) == 1, "one attempt of the driver, restarted by Ray"

    assert cut.metrics == whole.metrics and cut.samples_seen == whole.samples_seen
    left, right = (_tensors(tmp_path / name) for name in ("whole", "cut"))
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name
    losses = [
        [(e.step, e.values["loss"]) for e in read_entries(RunFolder(tmp_path / name).metrics) if "loss" in e.values]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1] and [step for step, _ in losses[1]] == list(range(1, 13))
    assert _tracked_loss_steps(tmp_path / "cut") == list(range(1, 13))


class _Killer(threading.Thread):
    """Kills one training process as soon as a checkpoint is published."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self.killed = 0

    def run(self) -> None:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            if latest_checkpoint(self._folder.checkpoints) is not None:
                workers = [p for p in psutil.process_iter(["cmdline"]) if _is_train_worker(p)]
                if workers:
                    self.killed = workers[-1].pid
                    os.kill(self.killed, signal.SIGKILL)
                    return
            time.sleep(0.01)


def _is_train_worker(process: psutil.Process) -> bool:
    return bool(process.info["cmdline"]) and "RayTrainWorker" in process.info["cmdline"][0]


def _tensors(run: Path) -> dict[str, torch.Tensor]:
    newest = latest_checkpoint(RunFolder(run).checkpoints)
    assert newest is not None
    return read_tensors(newest, ("",))


def _tracked_loss_steps(folder: Path) -> list[int]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(local_target(folder).uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    return [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]


def test_a_full_gpu_says_what_to_lower_and_is_not_tried_again(small_config: TrainConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    config = replace(small_config, loader=replace(small_config.loader, batch_size=2))
    assert train_module._enter_folder(config, folder, resume=False) is None

    def full(_: dict[str, float]) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def train() -> None:
        train_worker(config, folder, group=SingleProcess(), device=torch.device("cpu"), announce=full)

    with pytest.raises(DeviceMemoryError, match=r"loader\.batch_size 2.*checkpoint_blocks.*fsdp.*num_target_views 2"):
        train()
    train()  # what Ray's next attempt does: it ends at once
    with pytest.raises(DeviceMemoryError, match=r"Tried to allocate 2\.00 GiB"):
        train_module._launch_and_listen(replace(config, loop=replace(config.loop, num_steps=4)), folder)
