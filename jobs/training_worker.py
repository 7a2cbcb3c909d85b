"""What one process of a training run does, with or without Ray: build, restore, train, report."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from lhmforge.datasets import storage
from lhmforge.datasets.batch import Batch
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.resolve import body_path
from lhmforge.datasets.config_json import to_json
from lhmforge.datasets.errors import DivergenceError
from lhmforge.datasets.loader import BatchLoader, evaluation_batches
from lhmforge.jobs.config import TrainConfig
from lhmforge.jobs.fatal import fatal_errors_told
from lhmforge.jobs.metrics_log import MetricsLog
from lhmforge.jobs.run_record import RunFolder
from lhmforge.jobs.training_data import TrainingData, choose_data, require_body
from lhmforge.lhm_model.checkpoint import CheckpointOrigin, latest_checkpoint
from lhmforge.lhm_model.checkpoint_read import initial_model, restore_checkpoint
from lhmforge.lhm_model.checkpoint_write import CheckpointWriter
from lhmforge.lhm_model.evaluate import Evaluation, evaluate, shared_evaluation
from lhmforge.lhm_model.face_network import FaceNetwork, load_face_network
from lhmforge.lhm_model.losses import LossConfig, PointParts, compute_losses
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.network import compile_blocks
from lhmforge.lhm_model.optim import AveragedWeights, build_optimizer
from lhmforge.lhm_model.parallel import ProcessGroup, spread, unwrap
from lhmforge.lhm_model.perceptual import Perceptual, load_perceptual
from lhmforge.lhm_model.throughput import utilisation
from lhmforge.lhm_model.train_loop import ObjectiveValue, TrainState, train_loop

_log = logging.getLogger(__name__)

Announce = Callable[[dict[str, float]], None]


def train_worker(
    config: TrainConfig, folder: RunFolder, *, group: ProcessGroup, device: torch.device, announce: Announce
) -> None:
    """Trains from the newest checkpoint in `folder` (or from scratch) to the last step.

    `announce` is called on every process whenever a checkpoint was begun. What starting the workers again would not
    cure is written to `folder.fatal` for the driver: a divergence, which all processes meet at once and which ends
    them quietly, and a full GPU, which is raised as `DeviceMemoryError`.
    """
    if folder.fatal.is_file():
        return  # an earlier start of these workers met what no start cures
    try:
        with fatal_errors_told(config, folder):
            _train(config, folder, group=group, device=device, announce=announce)
    except DivergenceError as error:
        _log.error("rank %d stops: %s", group.rank, error)


def _train(
    config: TrainConfig, folder: RunFolder, *, group: ProcessGroup, device: torch.device, announce: Announce
) -> None:
    training = new_training(config, group=group, device=device)
    state = training.state
    newest = latest_checkpoint(folder.checkpoints)
    if newest is not None:
        restore_checkpoint(newest, state, training.origin, group=group)
        _log.info("rank %d continues at step %d from %s", group.rank, state.counters.step, newest)
    reporter = _FolderReporter(config, folder, training, device=device, group=group, announce=announce)
    try:
        train_loop(
            state,
            training.objective,
            config=config.loop,
            optim=config.optim,
            seed=config.seed,
            batch_size=config.loader.batch_size,
            group=group,
            device=device,
            reporter=reporter,
        )
    finally:
        reporter.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Everything a process needs to train, at step 0."""

    data: TrainingData
    state: TrainState
    objective: LossObjective
    perceptual: Perceptual
    origin: CheckpointOrigin


def new_training(config: TrainConfig, *, group: ProcessGroup, device: torch.device) -> Training:
    """Builds model, optimiser, data stream and losses; all processes start from the same weights."""
    torch.set_num_threads(config.hardware.threads_per_worker)
    data = choose_data(config.data)
    body = BodyModel.load(body_path(config.body))
    require_body(data.manifest, (*data.train_ids, *data.eval_ids), body.digest)
    perceptual = load_perceptual(config.perceptual).to(device)
    if config.hardware.compile:
        perceptual.compile(dynamic=False)  # compares feature maps in one pass: a quarter of the time on a GPU
    state = _new_state(config, data, body, group, device)
    model = state.bare_model
    assert isinstance(model, LHM)
    return Training(
        data=data,
        state=state,
        objective=LossObjective(
            config.loss, PointParts.from_skinning(model.skinner.weights), perceptual, _face_network(config, device)
        ),
        perceptual=perceptual,
        origin=_origin(config, body, model.points_digest, group),
    )


class LossObjective:
    """Renders the batch's target views and compares them."""

    def __init__(
        self, config: LossConfig, parts: PointParts, perceptual: Perceptual, faces: FaceNetwork | None = None
    ) -> None:
        self._config, self._parts, self._perceptual, self._faces = config, parts, perceptual, faces

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> ObjectiveValue:
        losses = compute_losses(
            model(batch),
            batch,
            config=self._config,
            step=step,
            parts=self._parts,
            perceptual=self._perceptual,
            face_features=self._faces,
        )
        return ObjectiveValue(total=losses.total, parts=losses.parts)


def _face_network(config: TrainConfig, device: torch.device) -> FaceNetwork | None:
    return load_face_network(Path(config.face_network)).to(device) if config.face_network else None


class _FolderReporter:
    """Rank 0 writes metrics, renders and checkpoints into the run's folder."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        training: Training,
        *,
        device: torch.device,
        group: ProcessGroup,
        announce: Announce,
    ) -> None:
        self._config, self._folder, self._training = config, folder, training
        self._device, self._announce, self._group = device, announce, group
        first_step = training.state.counters.step
        self._log = MetricsLog(folder.metrics, from_step=first_step) if group.rank == 0 else None
        self._latest: dict[str, float] = {}
        self._writer = CheckpointWriter(folder.checkpoints, training.origin, group=group, retention=config.retention)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if "samples_per_s" in values:
            values = {**values, **self._device_use(values["samples_per_s"]), **self._mixture()}
        if self._log is not None:
            self._log.append(step, values)
        self._latest = {"step": float(step), **values}

    def _mixture(self) -> dict[str, float]:
        """The share of each source in what all processes trained on since the last report."""
        loader = self._training.state.batches
        assert isinstance(loader, BatchLoader)
        counts = loader.drain_composition()
        if len(counts) == 1:
            return {}
        means = self._group.mean(torch.tensor(list(counts.values()), dtype=torch.float32, device=self._device))
        shares = (means / means.sum()).tolist()
        return {f"mixture_{name}": share for name, share in zip(counts, shares, strict=True)}

    def _device_use(self, samples_per_s: float) -> dict[str, float]:
        """How busy and how full this process's GPU is."""
        if self._device.type != "cuda":
            return {}
        use = {"gpu_peak_gb": torch.cuda.max_memory_allocated(self._device) / 1e9}
        mfu = utilisation(self._config.model, samples_per_s / self._group.world_size, self._device)
        return use if mfu is None else {**use, "mfu": mfu}

    def evaluate(self, state: TrainState) -> dict[str, float]:
        data, group = self._training.data, self._group
        batches = evaluation_batches(
            self._config.loader, data.manifest, data.eval_ids, rank=group.rank, world_size=group.world_size
        )
        model = state.bare_model
        assert isinstance(model, LHM)
        sheet = self._folder.renders / f"step_{state.counters.step:08d}.png"
        with torch.compiler.set_stance("force_eager"):  # graphs were built for training's shapes and gradients
            result = evaluate(
                model,
                batches,
                perceptual=self._training.perceptual,
                device=self._device,
                sheet=sheet if group.rank == 0 else None,
                precision=self._config.loop.precision,
            )
        result = shared_evaluation(result, data.eval_ids, group)
        if group.rank == 0:
            self._write_evaluation(state.counters.step, result)
        return {f"eval_{name}": value for name, value in result.means.items()}

    def _write_evaluation(self, step: int, result: Evaluation) -> None:
        table = {"step": step, "means": result.means, "samples": to_json(result.rows)}
        storage.publish(self._folder.evaluation, (json.dumps(table, indent=1).encode() + b"\n",))

    def checkpoint(self, state: TrainState, scores: Mapping[str, float]) -> None:
        self._writer.save(state, scores)
        self._announce(self._latest)

    def close(self) -> None:
        """Returns when everything is on disk."""
        self._writer.close()


def _new_state(
    config: TrainConfig, data: TrainingData, body: BodyModel, group: ProcessGroup, device: torch.device
) -> TrainState:
    """Model, optimiser and data stream at step 0; all processes start from the same weights."""
    bare = _new_model(config, body).to(device)
    bare.set_attention_kernel(config.hardware.attention)
    if config.hardware.compile:
        compile_blocks(bare)
    model = spread(
        bare,
        strategy=config.hardware.strategy,
        group=group,
        device=device,
        half_blocks=config.loop.precision == "bfloat16",
    )
    average = AveragedWeights(unwrap(model), config.optim.ema_decay) if config.optim.ema_decay else None
    loader = BatchLoader(
        config.loader,
        data.manifest,
        data.train_ids,
        rank=group.rank,
        world_size=group.world_size,
        mixture=data.mixture(config.loop.global_batch_size),
    )
    return TrainState(model=model, optimizer=build_optimizer(model, config.optim), batches=loader, average=average)


def _new_model(config: TrainConfig, body: BodyModel) -> LHM:
    torch.manual_seed(config.seed)
    recompute = config.hardware.checkpoint_blocks or config.model.checkpoint_blocks
    settings = replace(config.model, checkpoint_blocks=recompute)
    if config.init is None:
        return LHM(settings, body)
    return initial_model(Path(config.init), settings, body)


def _origin(config: TrainConfig, body: BodyModel, points_digest: str, group: ProcessGroup) -> CheckpointOrigin:
    model_config, run_config = to_json(config.model), to_json(config)
    assert isinstance(model_config, dict) and isinstance(run_config, dict)
    return CheckpointOrigin(
        seed=config.seed,
        world_size=group.world_size,
        body_digest=body.digest,
        model_config=model_config,
        run_config=run_config,
        fingerprint=config.fingerprint,
        points_digest=points_digest,
    )
