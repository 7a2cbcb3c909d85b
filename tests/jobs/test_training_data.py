"""Mixtures: what is held out, what is trained on, what a run says about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.npz_writer import write_body_file
from lhmforge.datasets.body.toy import toy_body_arrays
from lhmforge.datasets.config_json import to_json
from lhmforge.datasets.errors import BodyError, ConfigError
from lhmforge.datasets.manifest import ManifestRow, write_manifest
from lhmforge.datasets.records import SourceVideo
from lhmforge.jobs.config import DataConfig, DataSource, TrainConfig, sources_of, train_config_from_json
from lhmforge.jobs.metrics_log import read_entries
from lhmforge.jobs.run_record import RunFolder
from lhmforge.jobs.train import run_training
from lhmforge.jobs.training_data import choose_data
from lhmforge.jobs.training_worker import new_training
from lhmforge.lhm_model.parallel import SingleProcess

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def _manifest(folder: Path, rows: list[tuple[str, str, str]]) -> str:
    """A manifest of (key, identity, channel) without shards."""
    write_manifest(
        folder / "manifest.parquet",
        [
            ManifestRow(
                key=key,
                status="accepted",
                stage="pack",
                source=SourceVideo(uri=key, source_id=key, identity=identity, channel=channel),
                video_digest=f"v-{key}",
                shard="s.tar",
                fingerprint="f",
                body_digest="b",
            )
            for key, identity, channel in rows
        ],
    )
    return str(folder / "manifest.parquet")


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Six real people, and synthetic ones of whom one shares the identity of each real person."""
    real = _manifest(tmp_path / "real", [(f"r{n}", f"p{n}", "tube") for n in range(6)])
    twins = [(f"t{n}", f"p{n}", "synthetic") for n in range(6)]
    made = _manifest(tmp_path / "made", [(f"m{n}", f"x{n}", "synthetic") for n in range(20)] + twins)
    return real, made


def test_people_are_held_out_from_the_first_source_alone(two: tuple[str, str]) -> None:
    alone = choose_data(DataConfig(sources=sources_of(two[:1]), num_eval=2))
    both = choose_data(DataConfig(sources=sources_of(two, [0.25, 0.75], ["real", "made"]), num_eval=2))
    assert both.eval_ids == alone.eval_ids and both.pool_ids == alone.pool_ids
    assert [(part.name, part.weight, len(part.ids)) for part in both.parts] == [("real", 0.25, 4), ("made", 0.75, 24)]
    held_out = {key.replace("r", "t") for key in both.eval_ids}
    assert held_out.isdisjoint(both.train_ids), "twins of held-out people must not be trained on"


def test_subsets_cut_the_first_source_only(two: tuple[str, str]) -> None:
    config = DataConfig(sources=sources_of(two), num_eval=2, subset_size=3)
    data = choose_data(config)
    assert [len(part.ids) for part in data.parts] == [3, 24]
    larger = choose_data(replace(config, subset_size=4))
    assert set(data.train_ids) < set(larger.train_ids)


def test_synthetic_only_keeps_the_held_out_people(two: tuple[str, str]) -> None:
    config = DataConfig(sources=sources_of(two), num_eval=2)
    data = choose_data(replace(config, synthetic_only=True))
    assert data.eval_ids == choose_data(config).eval_ids
    assert [part.name for part in data.parts] == ["data2"] and all(key[0] in "mt" for key in data.train_ids)
    with pytest.raises(ConfigError, match="nothing is left"):
        choose_data(DataConfig(sources=sources_of(two[:1]), num_eval=2, synthetic_only=True))


def test_sources_are_checked() -> None:
    with pytest.raises(ConfigError, match="2 given for 1"):
        sources_of(["a"], [0.5, 0.5])
    with pytest.raises(ConfigError, match="distinct"):
        DataConfig(sources=sources_of(["a", "b"], names=["x", "x"]), num_eval=1)
    with pytest.raises(ConfigError, match="weight 0"):
        DataSource(manifest="a", weight=0)


def test_configurations_with_one_manifest_are_still_read(small_config: TrainConfig) -> None:
    value = json.loads(json.dumps(to_json(small_config)))
    (source,) = value["data"].pop("sources")
    value["data"]["manifest"] = source["manifest"]
    assert train_config_from_json(value, where="old") == small_config


def test_data_of_another_body_is_refused(small_config: TrainConfig, tmp_path: Path) -> None:
    arrays = toy_body_arrays()
    write_body_file(tmp_path / "other.npz", {**arrays, "v_template": arrays["v_template"] * 1.01})
    other = replace(small_config, body=str(tmp_path / "other.npz"))
    with pytest.raises(BodyError, match="curated with"):
        new_training(other, group=SingleProcess(), device=torch.device("cpu"))


def test_a_run_logs_the_mixture_it_saw(small_config: TrainConfig, people, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    second = people.write(
        tmp_path / "more", BodyModel.load(people.body), count=2, num_views=2, size=(60, 100), first=50
    )
    weights = sources_of([str(people.manifest), second.path], [3.0, 1.0], ["main", "more"])
    mixed = replace(
        small_config,
        data=replace(small_config.data, sources=weights),
        loop=replace(small_config.loop, num_steps=2, global_batch_size=4),
    )
    record = run_training(mixed, tmp_path / "run")
    entries = [entry.values for entry in read_entries(RunFolder(tmp_path / "run").metrics) if "loss" in entry.values]
    assert [(values["mixture_main"], values["mixture_more"]) for values in entries] == [(0.75, 0.25)] * 2
    assert record.unique_clips == 6
