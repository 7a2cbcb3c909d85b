"""Training runs: the folder, the record, resuming, tracking, and the same numbers under Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lhmforge.datasets.errors import CheckpointError, ConfigError, DivergenceError
from lhmforge.jobs import train as train_module
from lhmforge.jobs.config import DataSource, HardwareConfig, TrainConfig
from lhmforge.jobs.evaluation import evaluate_checkpoint
from lhmforge.jobs.metrics_log import read_entries
from lhmforge.jobs.recipes import fine_tuned
from lhmforge.jobs.run_record import RunFolder, load_record
from lhmforge.jobs.tracking import local_target
from lhmforge.jobs.train import run_training
from lhmforge.jobs.training_worker import new_training, train_worker
from lhmforge.lhm_model.checkpoint import latest_checkpoint, published_checkpoints
from lhmforge.lhm_model.checkpoint_files import read_tensors
from lhmforge.lhm_model.parallel import SingleProcess

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def _weights(run: Path) -> dict[str, torch.Tensor]:
    """Everything a run ends with: weights, averages and moments."""
    newest = latest_checkpoint(RunFolder(run).checkpoints)
    assert newest is not None
    return read_tensors(newest, ("",))


def _tracked_runs(folder: Path) -> list[object]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(local_target(folder).uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [client.get_run(run.info.run_id) for run in client.search_runs(experiments)]


def _stop_after_first_checkpoint(config: TrainConfig, output: Path) -> None:
    """A run that loses its process right after it has published a checkpoint."""
    folder = RunFolder(output)
    assert train_module._enter_folder(config, folder, resume=False) is None

    def stop(_: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_worker(config, folder, group=SingleProcess(), device=torch.device("cpu"), announce=stop)


def test_interrupted_and_resumed_run_equals_an_undisturbed_one(small_config: TrainConfig, tmp_path: Path) -> None:
    whole = run_training(small_config, tmp_path / "whole")
    _stop_after_first_checkpoint(small_config, tmp_path / "cut")
    resumed = run_training(small_config, tmp_path / "cut", resume=True)

    left, right = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert resumed.metrics == whole.metrics and resumed.run_id == whole.run_id
    losses = [
        [(e.step, e.values["loss"]) for e in read_entries(RunFolder(tmp_path / name).metrics) if "loss" in e.values]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1] and [step for step, _ in losses[0]] == [1, 2, 3, 4]

    assert (whole.steps, whole.samples_seen, whole.unique_clips, whole.epochs) == (4, 8, 4, 2.0)
    assert {"psnr", "ssim", "lpips"} <= whole.metrics.keys() and "face_consistency" not in whole.metrics
    assert load_record(RunFolder(tmp_path / "whole").record) == whole
    assert len(published_checkpoints(RunFolder(tmp_path / "whole").checkpoints)) == 2
    assert list(RunFolder(tmp_path / "whole").renders.glob("*.png"))

    run_training(small_config, tmp_path / "whole", resume=True)  # finished: returns at once
    (tracked,) = _tracked_runs(tmp_path / "whole")
    assert tracked.info.status == "FINISHED"  # type: ignore[attr-defined]
    assert tracked.data.params["config.optim.learning_rate"] == "0.001"  # type: ignore[attr-defined]
    assert tracked.data.metrics["eval_psnr"] == pytest.approx(whole.metrics["psnr"])  # type: ignore[attr-defined]
    digests = {item.dataset.digest for item in tracked.inputs.dataset_inputs}  # type: ignore[attr-defined]
    assert digests == {whole.subset_digest[:36], whole.evaluation_digest[:36]}


def test_a_model_file_is_evaluated_and_fine_tuned(small_config: TrainConfig, tmp_path: Path) -> None:
    """What a run exports at its end is its averaged model, and other runs start from it."""
    config = replace(small_config, optim=replace(small_config.optim, ema_decay=0.5))
    record = run_training(config, tmp_path / "run")
    exported = RunFolder(tmp_path / "run").exported
    result = evaluate_checkpoint(exported, tmp_path / "scores", body=Path(str(config.body)), faces="none")
    assert result.means["psnr"] == pytest.approx(record.metrics["psnr"], abs=1e-4)

    tuned = replace(fine_tuned(small_config, exported), seed=0)
    assert tuned.fingerprint != small_config.fingerprint and tuned.model == small_config.model
    started = new_training(tuned, group=SingleProcess(), device=torch.device("cpu")).state.bare_model.state_dict()
    averaged = _weights(tmp_path / "run")
    for name, value in started.items():
        assert torch.equal(value, averaged.get(f"average/{name}", averaged[f"model/{name}"])), name
    exported.write_bytes(exported.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="torn"):
        new_training(tuned, group=SingleProcess(), device=torch.device("cpu"))


def test_a_folder_belongs_to_one_configuration(small_config: TrainConfig, tmp_path: Path) -> None:
    _stop_after_first_checkpoint(small_config, tmp_path)
    with pytest.raises(ConfigError, match="--resume"):
        run_training(small_config, tmp_path)
    other = replace(small_config, optim=replace(small_config.optim, learning_rate=0.5))
    with pytest.raises(ConfigError, match=r"learning_rate: 0\.001 -> 0\.5"):
        run_training(other, tmp_path, resume=True)


def test_fingerprint_ignores_hardware_and_place_only(small_config: TrainConfig) -> None:
    moved = replace(
        small_config, data=replace(small_config.data, sources=(DataSource(manifest="/elsewhere/manifest.parquet"),))
    )
    assert moved.fingerprint == small_config.fingerprint
    assert replace(small_config, hardware=HardwareConfig(num_workers=2)).fingerprint == small_config.fingerprint
    half = replace(small_config.loop, precision="bfloat16")
    on_gpu = replace(small_config, loop=half, hardware=HardwareConfig(device="cuda"))
    assert on_gpu.fingerprint == replace(on_gpu, hardware=HardwareConfig(device="cuda", num_workers=8)).fingerprint
    assert on_gpu.fingerprint != small_config.fingerprint
    assert replace(small_config, body="other.npz").fingerprint != small_config.fingerprint


def test_divergence_reaches_the_user_with_sample_ids(small_config: TrainConfig, tmp_path: Path) -> None:
    wild = replace(small_config, loss=replace(small_config.loss, colour="inf"))
    with pytest.raises(DivergenceError, match="person00"):
        run_training(wild, tmp_path)
    assert not RunFolder(tmp_path).record.exists()
    (tracked,) = _tracked_runs(tmp_path)
    assert tracked.info.status == "FAILED"  # type: ignore[attr-defined]


def test_too_large_a_subset_is_refused_before_anything_starts(small_config: TrainConfig, tmp_path: Path) -> None:
    greedy = replace(small_config, data=replace(small_config.data, subset_size=99))
    with pytest.raises(ConfigError, match="99 of 4"):
        run_training(greedy, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.ray
def test_two_ray_workers_train_like_one_process(small_config: TrainConfig, tmp_path: Path, ray_session: None) -> None:
    alone = run_training(small_config, tmp_path / "alone")
    pair = replace(small_config, hardware=HardwareConfig(num_workers=2))
    together = run_training(pair, tmp_path / "pair")
    assert together.world_size == 2 and together.samples_seen == alone.samples_seen
    left, right = _weights(tmp_path / "alone"), _weights(tmp_path / "pair")
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-3, atol=2e-4, msg=name)
    assert together.metrics["psnr"] == pytest.approx(alone.metrics["psnr"], abs=0.05)

    result = evaluate_checkpoint(
        tmp_path / "pair", tmp_path / "evaluation", body=Path(str(small_config.body)), faces="none"
    )
    assert result.means["psnr"] == pytest.approx(together.metrics["psnr"], abs=1e-4)
    table = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert len(table["samples"]) == 2 and (tmp_path / "evaluation" / "renders.png").is_file()


@pytest.mark.slow  # tests/lhm_model/test_parallel.py holds the same without Ray
@pytest.mark.ray
def test_a_run_continues_on_another_world_size(small_config: TrainConfig, tmp_path: Path, ray_session: None) -> None:
    _stop_after_first_checkpoint(small_config, tmp_path / "run")
    pair = replace(small_config, hardware=HardwareConfig(num_workers=2))
    record = run_training(pair, tmp_path / "run", resume=True)
    assert (record.steps, record.samples_seen, record.world_size) == (4, 8, 2)
    steps = [entry.step for entry in read_entries(RunFolder(tmp_path / "run").metrics) if "loss" in entry.values]
    assert steps == [1, 2, 3, 4]
