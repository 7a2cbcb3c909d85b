"""Configs as JSON: round trip, unknown keys, types, fingerprints."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from lhmforge.datasets.config_json import differences, fingerprint, from_json, to_json
from lhmforge.datasets.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    rate: float
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    inner: Inner
    name: str | None = None
    size: tuple[int, int] = (1, 2)
    rates: tuple[float, ...] = ()
    table: dict[str, int] = field(default_factory=dict)
    flag: bool = False


VALUE = Outer(inner=Inner(rate=0.5, kind="b"), name="x", size=(3, 4), rates=(1.0, 2.5), table={"k": 7}, flag=True)


def test_round_trip() -> None:
    assert from_json(Outer, to_json(VALUE)) == VALUE
    assert from_json(Outer, {"inner": {"rate": 1}}) == Outer(inner=Inner(rate=1.0))


def test_an_unknown_key_lists_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"config\.inner: unknown key 'speed'; valid keys are rate, kind"):
        from_json(Outer, {"inner": {"rate": 1, "speed": 2}})


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"flag": 1}, "flag"),
        ({"size": [1, 2, 3]}, "size"),
        ({"size": [1, True]}, "size"),
        ({"rates": "no"}, "rates"),
        ({"inner": {"rate": "fast"}}, "inner.rate"),
        ({"inner": {"rate": 1, "kind": "c"}}, "inner.kind"),
        ({"inner": {}}, "rate"),
        ({"inner": 3}, "inner"),
        ({"table": {"k": 1.5}}, "table.k"),
        ({"name": 3}, "name"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, object], place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        from_json(Outer, {"inner": {"rate": 1}} | change)


def test_fingerprint_depends_on_every_value() -> None:
    others = [replace(VALUE, flag=False), replace(VALUE, inner=Inner(rate=0.6, kind="b")), replace(VALUE, rates=(1.0,))]
    prints = {fingerprint(value) for value in [VALUE, *others]}
    assert len(prints) == 4 and fingerprint(VALUE) == fingerprint(from_json(Outer, to_json(VALUE)))


def test_differences_name_the_leaves() -> None:
    assert differences(VALUE, replace(VALUE, inner=Inner(rate=0.6, kind="b"))) == ["config.inner.rate: 0.5 -> 0.6"]
