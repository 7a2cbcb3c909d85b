"""Running on a cluster: the checked launcher file, and what of the checkout travels to other machines."""

from __future__ import annotations

import json
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from lhmforge.datasets.codecs import JsonValue
from lhmforge.datasets.errors import ConfigError

# Never sent to other machines: environments, history, caches, and what runs leave behind.
EXCLUDES = (".venv/", ".git/", "build/", "dist/", "**/__pycache__/", "*.egg-info/", "*.mp4", "*.tar", "*.safetensors")


def checkout_root() -> Path | None:
    """The repository this code runs from; None when it is installed from a wheel."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else None


def runtime_env() -> dict[str, JsonValue]:
    """Ray's runtime environment for workers on other machines: the checkout without its heavy folders."""
    root = checkout_root()
    return {} if root is None else {"working_dir": str(root), "excludes": list(EXCLUDES)}


def load_cluster_file(path: Path) -> dict[str, JsonValue]:
    """A cluster launcher file, checked against the schema that the installed Ray ships; raises `ConfigError`."""
    import ray.autoscaler
    from jsonschema import ValidationError, validate  # type: ignore[import-untyped]

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable as YAML ({error})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected a mapping at the top")
    try:
        validate(config, schema)
    except ValidationError as error:
        place = ".".join(map(str, error.absolute_path)) or "top level"
        raise ConfigError(f"{path}: {place}: {error.message}") from None
    return config
