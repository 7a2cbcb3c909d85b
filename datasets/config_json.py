"""Configs as JSON: frozen dataclasses to plain values and back, and the fingerprint that names a configuration.

Supported field types: bool, int, float, str, None, object (any JSON, as it is), `Literal`, unions of these, tuples,
`dict[str, T]` and nested dataclasses. An unknown key is an error that lists the valid ones.
"""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from lhmforge.datasets.codecs import JsonValue as JsonValue
from lhmforge.datasets.errors import ConfigError

T = TypeVar("T")


def to_json(value: object) -> JsonValue:
    """The JSON form of a config: dataclasses become objects in field order, tuples become arrays."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    assert value is None or isinstance(value, bool | int | float | str), f"{value!r} is no config value"
    return value


def from_json(cls: type[T], data: JsonValue, *, where: str = "config") -> T:
    """Builds the dataclass `cls` from its JSON form; missing keys take the defaults of the class.

    Raises:
        ConfigError: an unknown key (lists the valid ones), a missing required key, or a value of the wrong type;
            `where` names the place in the message.
    """
    assert is_dataclass(cls)
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected an object with the fields of {cls.__name__}, found {data!r}")
    valid = [f.name for f in fields(cls) if f.init]
    unknown = sorted(set(data) - set(valid))
    if unknown:
        raise ConfigError(f"{where}: unknown key {', '.join(map(repr, unknown))}; valid keys are {', '.join(valid)}")
    hints = get_type_hints(cls)
    values = {name: _decode(hints[name], item, f"{where}.{name}") for name, item in data.items()}
    try:
        return cast(T, cls(**values))
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None


def fingerprint(config: object) -> str:
    """16 hex digits that depend on every value of `config`; equal configs have equal fingerprints everywhere."""
    text = json.dumps(to_json(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(left: object, right: object, *, where: str = "config") -> list[str]:
    """One line per leaf in which two configs (or their JSON forms) differ: `where.name: left -> right`."""
    return list(_differences(to_json(left), to_json(right), where))


def _differences(left: JsonValue, right: JsonValue, where: str) -> list[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        lines: list[str] = []
        for name in dict.fromkeys([*left, *right]):
            lines += _differences(left.get(name), right.get(name), f"{where}.{name}")
        return lines
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [line for index, pair in pairs for line in _differences(*pair, f"{where}[{index}]")]
    return [] if left == right else [f"{where}: {left!r} -> {right!r}"]


def _decode(hint: Any, value: JsonValue, where: str) -> object:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if hint is object:
        return value
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected an object, found {value!r}")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if is_dataclass(hint):
        return from_json(cast(type, hint), value, where=where)
    return _decode_scalar(hint, value, where)


def _decode_union(arguments: tuple[Any, ...], value: JsonValue, where: str) -> object:
    if value is None and type(None) in arguments:
        return None
    options = [argument for argument in arguments if argument is not type(None)]
    errors: list[ConfigError] = []
    for option in options:
        try:
            return _decode(option, value, where)
        except ConfigError as error:
            errors.append(error)
    raise errors[-1]


def _decode_tuple(arguments: tuple[Any, ...], value: JsonValue, where: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: expected a list, found {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(f"{where}: expected {len(arguments)} values, found {len(value)}")
    return tuple(
        _decode(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(arguments, value, strict=True))
    )


def _decode_scalar(hint: Any, value: JsonValue, where: str) -> object:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is type(None):
        hint = types.NoneType
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}")
    return value
