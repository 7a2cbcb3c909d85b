"""A study: the plan, its run, its report, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lhmforge.datasets.errors import ConfigError
from lhmforge.jobs.config import TrainConfig
from lhmforge.jobs.report.curves import pools, study_curves
from lhmforge.jobs.report.study_report import write_report
from lhmforge.jobs.run_record import RunRecord
from lhmforge.jobs.scale import (
    StudyConfig,
    default_seeds,
    default_sizes,
    load_plan,
    plan_study,
    run_study,
    study_points,
    study_records,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def _study(config: TrainConfig, *, sizes: tuple[int, ...] = (1, 2, 4), epochs: float | None = None) -> StudyConfig:
    return StudyConfig(
        train=config,
        sizes=sizes,
        seeds_per_size=(1,) * len(sizes),
        compute="equal_steps" if epochs is None else "equal_epochs",
        epochs=epochs,
    )


def _record(size: int, psnr: float, **changes: object) -> RunRecord:
    record = RunRecord(
        run_id="r", config_fingerprint="c", data_digest="d", subset_digest="s", evaluation_digest="e",
        curation_fingerprints=("one",), unique_clips=size, samples_seen=10, epochs=1.0, steps=5, seconds=1.0,
        world_size=1, device="cpu", seed=0, preset="tiny", num_parameters=7, metrics={"psnr": psnr},
        git_revision=None, finished_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    return replace(record, **changes)  # type: ignore[arg-type]


def test_study_from_plan_to_report(small_config: TrainConfig, tmp_path: Path) -> None:
    short = replace(small_config, loop=replace(small_config.loop, num_steps=2))
    plan = plan_study(_study(short), tmp_path, seconds_per_step=2.0)
    assert plan.total_steps == 6 and plan.predicted_seconds == 12.0
    assert plan.epochs == (4.0, 2.0, 1.0) and plan.num_eval_clips == 2
    assert "has not finished" in write_report(tmp_path).read_text()

    assert run_study(plan, tmp_path) == {}
    records = study_records(plan, tmp_path)
    assert [record.unique_clips for record in records] == [1, 2, 4]
    assert len({record.evaluation_digest for record in records}) == 1

    again = plan_study(_study(short), tmp_path)
    assert again == plan and run_study(again, tmp_path) == {}  # nothing is trained twice
    page = write_report(tmp_path).read_text()
    assert "3 sizes cannot determine" in page and "arXiv 2503.10625, table 3" in page and "Equal steps" in page
    assert page.count("<svg") == 3 and "has not finished" not in page

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert (len(parents), len(children)) == (1, 3)

    with pytest.raises(ConfigError, match="another study"):
        plan_study(_study(short, sizes=(1, 3)), tmp_path)


def test_a_point_that_fails_does_not_stop_the_others(small_config: TrainConfig, tmp_path: Path) -> None:
    wild = replace(small_config, loss=replace(small_config.loss, colour="inf"))
    plan = plan_study(_study(wild, sizes=(1, 2)), tmp_path)
    failures = run_study(plan, tmp_path)
    assert set(failures) == {point.name for point in study_points(plan.config)}
    assert "2" in write_report(tmp_path).read_text() and study_records(plan, tmp_path) == []


def test_equal_epochs_scale_steps_and_warm_up(small_config: TrainConfig, tmp_path: Path) -> None:
    plan = plan_study(_study(small_config, epochs=8.0), tmp_path)
    assert plan.steps == (4, 8, 16)
    assert load_plan(tmp_path) == plan
    assert [point.config.loop.num_steps for point in study_points(plan.config)] == [4, 8, 16]


def test_sizes_must_fit_the_data(small_config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="5 clips asked for, 4 are there"):
        plan_study(_study(small_config, sizes=(1, 5)), tmp_path)
    with pytest.raises(ConfigError, match="ascending"):
        _study(small_config, sizes=(3, 2))


def test_different_curations_are_never_pooled() -> None:
    records = [_record(10, 20.0), _record(20, 21.0), _record(30, 21.5, curation_fingerprints=("two",))]
    groups = pools(records)
    assert [[record.unique_clips for record in group] for group in groups] == [[10, 20], [30]]


def test_a_metric_that_a_point_lacks_gets_no_curve() -> None:
    records = [_record(10, 20.0), replace(_record(20, 21.0), metrics={"ssim": 0.9})]
    assert study_curves(records, compute="equal_steps") == []


def test_default_plan_is_log_spaced_with_more_seeds_where_cheap() -> None:
    sizes = default_sizes(300_000)
    assert len(sizes) == 7 and sizes[0] == 3_000 and sizes[-1] == 300_000
    assert default_seeds(sizes)[0] == 3 and default_seeds(sizes)[-1] == 1
    assert default_sizes(3) == (1, 2, 3)
