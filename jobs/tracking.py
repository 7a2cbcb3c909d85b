"""MLflow, the only module that knows it: one tracked run per training run, reopened and never duplicated.

The client API is used alone (no global state, no autologging, no network): a run is found again by the tag
`lhmforge.run_id`, and each metric is logged once per step.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lhmforge.datasets.codecs import JsonValue

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_RUN_ID_TAG = "lhmforge.run_id"
_PARENT_TAG = "mlflow.parentRunId"
_MAX_PARAM_CHARS = 500
_PARAMS_PER_CALL = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingTarget:
    """Where a run is tracked; `parent` is the MLflow run id of the study it belongs to."""

    uri: str
    artifact_root: str
    experiment: str = "lhmforge"
    parent: str | None = None


def local_target(folder: Path, *, experiment: str = "lhmforge", uri: str | None = None) -> TrackingTarget:
    """A SQLite store inside `folder`, or the server or store at `uri`."""
    folder = folder.resolve()
    return TrackingTarget(
        uri=uri or f"sqlite:///{folder / 'mlflow.db'}",
        artifact_root="" if uri else str(folder / "mlartifacts"),
        experiment=experiment,
    )


class TrackedRun:
    """One MLflow run."""

    def __init__(self, target: TrackingTarget, *, run_id: str, name: str) -> None:
        self._client = _client(target.uri)
        self._experiment = _experiment(self._client, target)
        self.mlflow_id = self._find(run_id) or self._create(run_id, name, target.parent)
        self._client.set_terminated(self.mlflow_id, status="RUNNING")
        self._last_step: dict[str, int] = {}

    def params(self, config: JsonValue) -> None:
        """Logs a config, nested keys joined with dots; a value that was logged before is left alone."""
        from mlflow.entities import Param

        known = self._client.get_run(self.mlflow_id).data.params
        flat = {key: str(value)[:_MAX_PARAM_CHARS] for key, value in _flatten(config).items() if key not in known}
        params = [Param(key, value) for key, value in flat.items()]
        for start in range(0, len(params), _PARAMS_PER_CALL):
            self._client.log_batch(self.mlflow_id, params=params[start : start + _PARAMS_PER_CALL])

    def metrics(self, step: int, values: Mapping[str, float], *, time_s: float | None = None) -> None:
        """Logs values at a step; a metric that already reached this step is left alone."""
        from mlflow.entities import Metric

        stamp = int((time.time() if time_s is None else time_s) * 1000)
        new = {name: value for name, value in values.items() if step > self._reached(name)}
        if new:
            self._client.log_batch(self.mlflow_id, [Metric(name, value, stamp, step) for name, value in new.items()])
            self._last_step.update(dict.fromkeys(new, step))

    def dataset(self, *, name: str, digest: str, source: str, context: str, profile: Mapping[str, int]) -> None:
        """Logs the data of the run as an input, identified by its digest (first 36 characters, MLflow's limit)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=name,
            digest=digest[:36],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps(dict(profile)),
        )
        self._client.log_inputs(self.mlflow_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Copies a file into the run's artifacts."""
        self._client.log_artifact(self.mlflow_id, str(path), folder)

    def finish(self, *, failed: bool = False) -> None:
        self._client.set_terminated(self.mlflow_id, status="FAILED" if failed else "FINISHED")

    def _reached(self, name: str) -> int:
        if name not in self._last_step:
            history = self._client.get_metric_history(self.mlflow_id, name)
            self._last_step[name] = max((metric.step for metric in history), default=-1)
        return self._last_step[name]

    def _find(self, run_id: str) -> str | None:
        found = self._client.search_runs(
            [self._experiment],
            filter_string=f"tags.`{_RUN_ID_TAG}` = '{run_id}'",
            order_by=["start_time ASC"],
            max_results=1,
        )
        return str(found[0].info.run_id) if found else None

    def _create(self, run_id: str, name: str, parent: str | None) -> str:
        tags = {_RUN_ID_TAG: run_id} | ({_PARENT_TAG: parent} if parent else {})
        return str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)


def _client(uri: str) -> MlflowClient:
    """The client; telemetry is off before the first import, and the store's migration messages are kept down."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return MlflowClient(uri)


def _experiment(client: MlflowClient, target: TrackingTarget) -> str:
    experiment = client.get_experiment_by_name(target.experiment)
    if experiment is not None:
        return str(experiment.experiment_id)
    return str(client.create_experiment(target.experiment, artifact_location=target.artifact_root or None))


def _flatten(value: JsonValue, prefix: str = "") -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, JsonValue] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else key)
    return flat
