"""The Ray that this process uses: one that runs already, the cluster that RAY_ADDRESS names, or a local one."""

from __future__ import annotations

import logging
import os

from lhmforge.jobs.cluster import runtime_env


def ensure_ray(num_cpus: int) -> None:
    """Connects once per process; a local Ray gets `num_cpus` CPU slots, or one per core if that is more.

    Slots are a promise, not cores: two one-thread workers run on a machine of one core, only slower.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else workers are launched again through uv: 30 s more
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    if "RAY_ADDRESS" in os.environ:
        ray.init(runtime_env=runtime_env(), log_to_driver=False, logging_level=logging.WARNING)
        return
    slots = max(num_cpus, os.cpu_count() or 1)
    ray.init(num_cpus=slots, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
