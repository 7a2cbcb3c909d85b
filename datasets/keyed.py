"""Keyed hashes: an order of ids that anybody can recompute from a key and that new ids do not disturb."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def keyed_rank(key: str, name: str) -> float:
    """A number in [0, 1) that looks random and depends on `key` and `name` alone."""
    digest = hashlib.sha256(f"{key}\x1f{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / float(1 << 48)


def keyed_order(key: str, names: Iterable[str]) -> list[str]:
    """Names by keyed rank, ties by name."""
    return sorted(names, key=lambda name: (keyed_rank(key, name), name))


def ids_digest(ids: Iterable[str]) -> str:
    """sha256 of a set of ids; order does not matter."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
