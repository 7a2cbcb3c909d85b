"""Session-wide fixtures: the one local Ray, the real clips, and jaxtyping's run-time checks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

REPOSITORY = Path(__file__).resolve().parent.parent


# Shape annotations are checked while tests run. The hook must stand before any module of ours is imported, and the
# conftest files of sub-folders are imported before `pytest_configure`.
install_import_hook(["lhmforge.datasets", "lhmforge.lhm_model", "lhmforge.pipelines"], "beartype.beartype")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """The folder of real clips; tests that need it skip when it is absent."""
    folder = Path(os.environ.get("LHMFORGE_TEST_VIDEOS", REPOSITORY.parent / "shared" / "videos"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real clips at {folder}; set LHMFORGE_TEST_VIDEOS")
    return folder


@pytest.fixture(scope="session")
def golden_reference() -> Path:
    """The reference tensors of the public release; tests that need them skip when they are absent."""
    path = Path(
        os.environ.get("LHMFORGE_GOLDEN", REPOSITORY.parent / "shared" / "golden" / "lhm_reference_small.safetensors")
    )
    if not path.is_file():
        pytest.skip(f"no reference tensors at {path}; set LHMFORGE_GOLDEN")
    return path


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for the whole session; starting it takes 15-20 s."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()
