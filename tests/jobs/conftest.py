"""A small corpus of painted people on the toy body, and a training configuration that takes a second on it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.toy import write_toy_body
from lhmforge.datasets.loader import LoaderConfig
from lhmforge.datasets.manifest import Manifest
from lhmforge.jobs.config import DataConfig, DataSource, HardwareConfig, TrainConfig
from lhmforge.lhm_model.config import EncoderConfig, preset
from lhmforge.lhm_model.losses import LossConfig
from lhmforge.lhm_model.optim import OptimConfig
from lhmforge.lhm_model.train_loop import LoopConfig

_spec = importlib.util.spec_from_file_location("lhmforge_test_people", Path(__file__).with_name("painted_people.py"))
assert _spec is not None and _spec.loader is not None
painted_people = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = painted_people
_spec.loader.exec_module(painted_people)


@dataclass(frozen=True, slots=True)
class People:
    """Where the corpus and its body lie."""

    manifest: Path
    body: Path
    write: Callable[..., Manifest]


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    folder = tmp_path_factory.mktemp("people")
    body = write_toy_body(folder / "toy.npz")
    painted_people.write_people(folder / "data", BodyModel.load(body), count=6, num_views=4, size=(60, 100))
    return People(folder / "data" / "manifest.parquet", body, painted_people.write_people)


@pytest.fixture
def small_config(people: People) -> TrainConfig:
    """A model of a few thousand parameters, four steps of two samples."""

    def encoder(size: int) -> EncoderConfig:
        return EncoderConfig(kind="small", image_size=size, patch_size=16, channels=16, depth=1, num_heads=2)

    model = replace(
        preset("tiny"),
        width=16,
        num_blocks=1,
        num_points=64,
        body_encoder=encoder(48),
        head_encoder=encoder(32),
        head_token_shrinkage=0.0,
    )
    return TrainConfig(
        data=DataConfig(sources=(DataSource(manifest=str(people.manifest)),), num_eval=2),
        model=model,
        loader=LoaderConfig(batch_size=1, num_target_views=2, source_size=(48, 80), target_size=(48, 80), head_size=32),
        loss=LossConfig(),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=1, grad_clip=1.0),
        loop=LoopConfig(num_steps=4, global_batch_size=2, log_every=1, evaluate_every=0, checkpoint_every=2),
        hardware=HardwareConfig(),
        body=str(people.body),
    )
