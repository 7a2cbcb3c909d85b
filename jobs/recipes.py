"""Named training configurations: one per model preset."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from lhmforge.datasets.codecs import JsonValue
from lhmforge.datasets.config_json import from_json
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.loader import LoaderConfig
from lhmforge.jobs.config import DataConfig, HardwareConfig, TrainConfig
from lhmforge.lhm_model.checkpoint import read_record, resolve_checkpoint
from lhmforge.lhm_model.config import ModelConfig, preset, with_encoder_weights
from lhmforge.lhm_model.losses import LossConfig
from lhmforge.lhm_model.optim import OptimConfig
from lhmforge.lhm_model.train_loop import LoopConfig


def train_recipe(
    name: str,
    *,
    data: DataConfig,
    num_steps: int | None = None,
    seed: int = 0,
    hardware: HardwareConfig | None = None,
    body: str | None = None,
) -> TrainConfig:
    """The training configuration of preset `name` for `num_steps` optimiser steps (None: the recipe's own).

    `tiny` is sized for minutes on two CPU cores. The others follow the paper's budget: 40,000 steps over 128 subjects
    with 4 target views each (lhm_spec section 9.3), learning rate 4e-4. Raises `ConfigError` for an unknown name.
    """
    model = preset(name)
    hardware = hardware or HardwareConfig()
    if name == "tiny":
        return _tiny(data, num_steps or 200, seed, hardware, body)
    return TrainConfig(
        data=data,
        model=model,
        loader=LoaderConfig(batch_size=4, num_target_views=4, num_workers=4, head_size=448, seed=seed),
        loss=LossConfig(),
        optim=OptimConfig(),
        loop=LoopConfig(num_steps=num_steps or 40_000, global_batch_size=128, precision="bfloat16"),
        hardware=hardware,
        perceptual="vgg",
        body=body,
        seed=seed,
    )


def fine_tuned(config: TrainConfig, init: Path) -> TrainConfig:
    """`config` for the model in the checkpoint, export or import `init`, at a tenth of the learning rate.

    Raises `CheckpointError` when there is none.
    """
    record = read_record(resolve_checkpoint(init))
    model = from_json(ModelConfig, record.model_config, where=str(init))
    optim = replace(config.optim, learning_rate=config.optim.learning_rate / 10, warmup_steps=0)
    return replace(config, model=model, optim=optim, init=str(init))


def with_encoders(config: TrainConfig, *, body: Path | None, head: Path | None) -> TrainConfig:
    """`config` with the user's encoder files, where given."""
    files = {"body": str(body) if body else "", "head": str(head) if head else ""}
    return replace(config, model=with_encoder_weights(config.model, **files))


def with_batch(config: TrainConfig, batch_size: int) -> TrainConfig:
    """`config` with another number of samples per worker and pass; the global batch is kept by accumulation."""
    return replace(config, loader=replace(config.loader, batch_size=batch_size))


def _tiny(data: DataConfig, num_steps: int, seed: int, hardware: HardwareConfig, body: str | None) -> TrainConfig:
    return TrainConfig(
        data=data,
        model=preset("tiny"),
        loader=LoaderConfig(
            batch_size=1,
            num_target_views=4,
            source_size=(144, 240),
            target_size=(96, 160),
            head_size=96,
            half_body_probability=0.0,
            seed=seed,
        ),
        loss=LossConfig(colour="5"),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=min(20, num_steps // 5), grad_clip=1.0, weight_decay=0.01),
        loop=LoopConfig(
            num_steps=num_steps,
            global_batch_size=2,
            log_every=10,
            evaluate_every=0,
            checkpoint_every=max(1, num_steps // 4),
        ),
        hardware=hardware,
        body=body,
        seed=seed,
    )


def read_json(path: Path) -> JsonValue:
    """The content of a JSON file; raises `ConfigError` naming the file."""
    try:
        value: JsonValue = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not readable as JSON ({error})") from None
    return value
