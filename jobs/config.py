"""The configuration of a training run: the parts' own configs, composed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from lhmforge.datasets.config_json import JsonValue, fingerprint, from_json, to_json
from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.loader import LoaderConfig
from lhmforge.lhm_model.attention import Kernel
from lhmforge.lhm_model.checkpoint import Retention
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.losses import LossConfig
from lhmforge.lhm_model.optim import OptimConfig
from lhmforge.lhm_model.parallel import Strategy
from lhmforge.lhm_model.train_loop import LoopConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """A manifest and its share of every step, relative to the weights of the other sources."""

    manifest: str
    weight: float = 1.0
    name: str = ""  # as metrics call it; empty: data1, data2, ...

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"data.sources: weight {self.weight} of {self.manifest} must be a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which samples are trained on and which are held out, by identity.

    The first source is the one under study: people are held out from it, depending on its manifest, `split_key` and
    `num_eval` alone, and `subset_size` takes a nested subset of what it has left (None: all of it). Further sources
    join whole, but for samples that share a person or video with those held out. `synthetic_only` trains on rendered
    people alone (rows of the channel or stage of `lhmforge synthesize`) and is judged on the same people as before.
    """

    sources: tuple[DataSource, ...]
    num_eval: int  # identities held out
    split_key: str = "evaluation"
    subset_size: int | None = None
    subset_key: str = "subset"
    stratify: tuple[str, ...] = ()
    synthetic_only: bool = False

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("data.sources: at least one manifest is needed")
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"data.sources: the names {list(self.names)} must be distinct")
        if self.num_eval < 1:
            raise ConfigError(f"data.num_eval: {self.num_eval} is below 1; held-out people are needed to evaluate")
        if self.subset_size is not None and self.subset_size < 1:
            raise ConfigError(f"data.subset_size: {self.subset_size} is below 1")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(source.name or f"data{number}" for number, source in enumerate(self.sources, start=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareConfig:
    """Where a run happens; nothing here changes what it computes beyond rounding."""

    num_workers: int = 0  # Ray Train workers; 0: this process, without Ray
    device: Literal["cpu", "cuda"] = "cpu"
    threads_per_worker: int = 1
    strategy: Strategy = "ddp"
    compile: bool = False
    checkpoint_blocks: bool = False  # recompute transformer blocks in the backward pass; only where memory needs it
    attention: Kernel = "auto"
    max_failures: int = 2  # worker losses that Ray recovers from

    def __post_init__(self) -> None:
        if self.num_workers < 0 or self.threads_per_worker < 1:
            raise ConfigError("hardware: num_workers must not be negative, threads_per_worker must be at least 1")

    @property
    def world_size(self) -> int:
        return max(1, self.num_workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that determines a run; `lhmforge train` writes it to `config.json`."""

    data: DataConfig
    model: ModelConfig
    loader: LoaderConfig
    loss: LossConfig
    optim: OptimConfig
    loop: LoopConfig
    retention: Retention = field(default_factory=Retention)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    perceptual: Literal["alex", "vgg"] = "alex"
    face_network: str = ""  # the user's arcface_resnet18.pth, for loss.face_id
    body: str | None = None  # SMPL-X npz of the user; None: the embedded free body
    init: str | None = None  # checkpoint, export or import whose weights and query points the run starts from
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loop.precision == "bfloat16" and self.hardware.device == "cpu":
            raise ConfigError("loop.precision: bfloat16 is for device cuda; the CPU renderer and losses want float32")
        if self.loss.face_id != "0" and not self.face_network:
            raise ConfigError(
                f"loss.face_id: {self.loss.face_id!r} needs face_network, the path of your arcface_resnet18.pth; "
                "or set loss.face_id to 0"
            )
        if self.loader.seed != self.seed:
            raise ConfigError(f"loader.seed: {self.loader.seed} differs from seed {self.seed}; use one seed")

    @property
    def fingerprint(self) -> str:
        """Names what is computed: equal for runs that differ only in hardware or in where the manifest lies."""
        # As JSON, because bfloat16 with the default hardware would be refused as a configuration.
        settings = {field.name: to_json(getattr(self, field.name)) for field in fields(self)}
        unplaced = tuple(replace(source, manifest="") for source in self.data.sources)
        settings["data"] = to_json(replace(self.data, sources=unplaced))
        settings["hardware"] = to_json(HardwareConfig())
        return fingerprint(settings)


def sources_of(
    manifests: Sequence[str], weights: Sequence[float] = (), names: Sequence[str] = ()
) -> tuple[DataSource, ...]:
    """Sources as a command line gives them; raises `ConfigError` unless there are as many weights as manifests."""
    for label, given in (("--data-weight", weights), ("--data-name", names)):
        if given and len(given) != len(manifests):
            raise ConfigError(f"{label}: {len(given)} given for {len(manifests)} --data; give one for each, or none")
    padded = zip(manifests, weights or [1.0] * len(manifests), names or [""] * len(manifests), strict=True)
    return tuple(DataSource(manifest=manifest, weight=weight, name=name) for manifest, weight, name in padded)


def train_config_from_json(value: JsonValue, *, where: str) -> TrainConfig:
    """The configuration in a file, of earlier versions (one manifest) too; raises `ConfigError`."""
    data = value.get("data") if isinstance(value, dict) else None
    if isinstance(value, dict) and isinstance(data, dict) and "manifest" in data:
        rest = {name: item for name, item in data.items() if name != "manifest"}
        value = {**value, "data": {**rest, "sources": [{"manifest": data["manifest"]}]}}
    return from_json(TrainConfig, value, where=where)
