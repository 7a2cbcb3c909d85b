"""The training worker under Ray Train (v2): N processes joined by torch.distributed, restarted when one is lost.

Our own checkpoint folder is the truth: Ray carries metrics, starts workers, and starts them again after a failure;
each start resumes from the newest published checkpoint.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from lhmforge.datasets.config_json import from_json, to_json
from lhmforge.datasets.errors import ForgeError
from lhmforge.jobs.config import TrainConfig
from lhmforge.jobs.ray_session import ensure_ray
from lhmforge.jobs.run_record import RunFolder


def train_on_ray(config: TrainConfig, folder: RunFolder) -> None:
    """Runs `config.hardware.num_workers` workers to the end.

    Raises:
        ForgeError: what a worker raised, when the user can fix it.
        TrainingFailedError: workers were lost more often than `max_failures`.
    """
    hardware = config.hardware
    ensure_ray(hardware.num_workers * hardware.threads_per_worker)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    on_gpu = hardware.device == "cuda"
    trainer = TorchTrainer(
        _worker_entry,
        train_loop_config={"config": json.dumps(to_json(config)), "folder": str(folder.root.resolve())},
        scaling_config=ScalingConfig(
            num_workers=hardware.num_workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": hardware.threads_per_worker, **({"GPU": 1} if on_gpu else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        run_config=RunConfig(
            name=f"attempt_{time.time_ns()}",  # a name seen before would make Ray continue its own snapshot
            storage_path=str((folder.root / "ray").resolve()),
            failure_config=FailureConfig(max_failures=hardware.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        causes = getattr(error, "worker_failures", {})
        fixable = [cause for cause in causes.values() if isinstance(cause, ForgeError)]
        if fixable:
            raise fixable[0] from None
        raise


def _worker_entry(settings: dict[str, str]) -> None:
    """Runs in each Ray Train worker."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from lhmforge.jobs.training_worker import train_worker
    from lhmforge.lhm_model.parallel import TorchGroup

    config = from_json(TrainConfig, json.loads(settings["config"]))
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # messages of objects go through the current device, which must be this worker's
    train_worker(
        config,
        RunFolder(Path(settings["folder"])),
        group=TorchGroup(),
        device=device,
        announce=lambda metrics: ray.train.report(dict(metrics)),
    )
