"""The cluster file is what Ray accepts, and heavy folders do not travel."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lhmforge.datasets.errors import ConfigError
from lhmforge.jobs.cluster import EXCLUDES, load_cluster_file, runtime_env

pytestmark = pytest.mark.filterwarnings("ignore")  # importing Ray's autoscaler


def test_the_shipped_file_is_valid(repository: Path) -> None:
    config = load_cluster_file(repository / "ray_cluster.yaml")
    assert config["cluster_name"] == "lhmforge"


def test_a_wrong_field_is_named(repository: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((repository / "ray_cluster.yaml").read_text())
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(config | {"max_workers": "many"}))
    with pytest.raises(ConfigError, match="max_workers"):
        load_cluster_file(bad)
    bad.write_text("a: [")
    with pytest.raises(ConfigError, match="YAML"):
        load_cluster_file(bad)


def test_the_environment_stays_home(repository: Path) -> None:
    env = runtime_env()
    assert Path(str(env["working_dir"])) == repository
    assert ".venv/" in EXCLUDES and env["excludes"] == list(EXCLUDES)
