"""The configuration of a training run: the parts' own configs, composed."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal

from lhmforge.datasets.config_json import fingerprint, to_json
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
class DataConfig:
    """Which samples of a manifest are trained on and which are held out, by identity.

    The held-out identities depend on the manifest, `split_key` and `num_eval` alone; `subset_size` then takes a nested
    subset of the rest (None: all of it).
    """

    manifest: str
    num_eval: int  # identities held out
    split_key: str = "evaluation"
    subset_size: int | None = None
    subset_key: str = "subset"
    stratify: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_eval < 1:
            raise ConfigError(f"data.num_eval: {self.num_eval} is below 1; held-out people are needed to evaluate")
        if self.subset_size is not None and self.subset_size < 1:
            raise ConfigError(f"data.subset_size: {self.subset_size} is below 1")


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
    body: str | None = None  # SMPL-X npz of the user; None: the embedded free body
    init: str | None = None  # checkpoint, export or import whose weights and query points the run starts from
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loop.precision == "bfloat16" and self.hardware.device == "cpu":
            raise ConfigError("loop.precision: bfloat16 is for device cuda; the CPU renderer and losses want float32")
        if self.loader.seed != self.seed:
            raise ConfigError(f"loader.seed: {self.loader.seed} differs from seed {self.seed}; use one seed")

    @property
    def fingerprint(self) -> str:
        """Names what is computed: equal for runs that differ only in hardware or in where the manifest lies."""
        # As JSON, because bfloat16 with the default hardware would be refused as a configuration.
        settings = {field.name: to_json(getattr(self, field.name)) for field in fields(self)}
        if self.init is None:
            del settings["init"]  # the name of a run that began before the field existed stays
        settings["data"] = to_json(replace(self.data, manifest=""))
        settings["hardware"] = to_json(HardwareConfig())
        return fingerprint(settings)
