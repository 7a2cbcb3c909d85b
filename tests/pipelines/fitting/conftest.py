"""Bodies and tracks for the fitting tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.toy import write_toy_body
from lhmforge.pipelines.fitting.solver_check import NUM_TRUE_BETAS
from lhmforge.pipelines.fitting.track_fit import FittingBody


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> BodyModel:
    """The small tube body."""
    path = tmp_path_factory.mktemp("body") / "SMPLX_TOY.npz"
    write_toy_body(path)
    return BodyModel.load(path)


@pytest.fixture(scope="session")
def free_path() -> Path:
    """The file of the free body."""
    return free_body_path()


@pytest.fixture(scope="session")
def free_model(free_path: Path) -> BodyModel:
    """The free body with the ten shape components that the solver knows."""
    return BodyModel.load(free_path)


@pytest.fixture(scope="session")
def true_model(free_path: Path) -> BodyModel:
    """The free body with the shape components of the truth."""
    return BodyModel.load(free_path, num_betas=NUM_TRUE_BETAS)


@pytest.fixture(scope="session")
def fitting_body(free_path: Path) -> FittingBody:
    """The free body as the fit stage uses it."""
    return FittingBody.load(free_path)
