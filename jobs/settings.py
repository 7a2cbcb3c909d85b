"""Changes single settings of a configuration by name, as the command line gives them: `loss.asap=0`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lhmforge.datasets.codecs import JsonValue
from lhmforge.datasets.config_json import to_json
from lhmforge.datasets.errors import ConfigError
from lhmforge.jobs.config import TrainConfig, train_config_from_json


def with_settings(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """`config` with each `path.to.field=value` applied; values are JSON, or text where they are no JSON.

    Raises `ConfigError` for a path that does not exist (listing what does) or a value that the field refuses.
    """
    data = to_json(config)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {setting!r}: write it as path.to.field=value, e.g. loss.asap=0")
        _put(data, path.split("."), text, setting)
    return train_config_from_json(data, where="--set")


def _put(data: JsonValue, path: Sequence[str], text: str, setting: str) -> None:
    *above, name = path
    for part in above:
        data = _child(data, part, setting)
    old = _child(data, name, setting)
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    assert isinstance(data, dict)
    # Ramps of loss weights are text even where they are a plain number.
    data[name] = text if isinstance(old, str) else value


def _child(data: JsonValue, name: str, setting: str) -> JsonValue:
    if not isinstance(data, dict) or name not in data:
        valid = sorted(data) if isinstance(data, dict) else []
        raise ConfigError(f"--set {setting!r}: there is no {name!r} here; valid: {', '.join(valid) or 'nothing below'}")
    return data[name]
