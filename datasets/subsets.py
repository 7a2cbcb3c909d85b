"""Nested subsets: every id gets one place in a keyed order, and a subset of size n is the first n places.

The stratified order puts the i-th id (by keyed hash) of a stratum of m ids at the place (i + 1/2) / m, so that any
prefix holds the strata in the proportions of the whole, and a smaller subset is still a part of any larger one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from lhmforge.datasets import storage
from lhmforge.datasets.codecs import decode_json, encode_json
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.keyed import ids_digest, keyed_order, keyed_rank
from lhmforge.datasets.manifest import Manifest

SUBSET_VERSION = 1
_NUM_BINS = 4  # quantile bins of a numeric column


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """A list of sample ids, in keyed order, and the digest of the manifest that they are from."""

    ids: tuple[str, ...]
    key: str
    stratify: tuple[str, ...]
    digest: str  # of the ids as a set
    manifest_digest: str

    def __post_init__(self) -> None:
        if not self.ids:
            raise ShardError("a subset needs at least one sample")

    def save(self, path: str | Path) -> None:
        """Publishes the subset as JSON."""
        storage.publish(path, (encode_json({"version": SUBSET_VERSION, **asdict(self)}),))

    @classmethod
    def load(cls, path: str | Path, manifest: Manifest) -> Subset:
        """Reads a subset file; raises `ShardError` if it is damaged or belongs to another manifest."""
        value = decode_json(storage.read_bytes(path), what=f"subset {path}")
        subset = _from_json(value, what=f"subset {path}")
        if subset.manifest_digest != manifest.digest:
            raise ShardError(
                f"subset {path} belongs to manifest {subset.manifest_digest[:16]}, not to {manifest.path} "
                f"({manifest.digest[:16]}); make it again"
            )
        manifest.select(subset.ids)
        return subset


def nested_subset(
    manifest: Manifest,
    size: int,
    key: str,
    stratify: Sequence[str] = (),
    *,
    within: Sequence[str] | None = None,
) -> Subset:
    """The first `size` ids of the keyed order of `within` (default: all accepted samples).

    `stratify` names manifest columns whose proportions a prefix keeps; numbers are cut at their quartiles over
    `within`. Subsets of the same manifest, key, columns and `within` are nested. Raises `ShardError` when there are
    not so many samples or a column is unknown.
    """
    rows = manifest.accepted() if within is None else manifest.select(within)
    if not 1 <= size <= len(rows):
        raise ShardError(f"cannot take a subset of {size} from {len(rows)} samples of {manifest.path}")
    ids = _stratified_order(rows, key, stratify) if stratify else keyed_order(key, rows["key"])
    chosen = tuple(ids[:size])
    return Subset(
        ids=chosen,
        key=key,
        stratify=tuple(stratify),
        digest=ids_digest(chosen),
        manifest_digest=manifest.digest,
    )


def _stratified_order(rows: pd.DataFrame, key: str, stratify: Sequence[str]) -> list[str]:
    unknown = [name for name in stratify if name not in rows.columns]
    if unknown:
        raise ShardError(f"cannot stratify by {unknown[0]!r}; the manifest has: {', '.join(rows.columns)}")
    labels = [_labels(rows[name]) for name in stratify]
    strata: dict[tuple[str, ...], list[str]] = {}
    for sample_id, *label in zip(rows["key"], *labels, strict=True):
        strata.setdefault(tuple(label), []).append(sample_id)
    places = {
        sample_id: (index + 0.5) / len(members)
        for members in strata.values()
        for index, sample_id in enumerate(keyed_order(key, members))
    }
    return sorted(places, key=lambda sample_id: (places[sample_id], keyed_rank(key, sample_id), sample_id))


def _labels(column: pd.Series) -> list[str]:
    if not pd.api.types.is_numeric_dtype(column):
        return [str(value) for value in column]
    bins = pd.qcut(column.rank(method="average"), _NUM_BINS, labels=False, duplicates="drop")
    return [str(value) for value in bins]


def _from_json(value: object, *, what: str) -> Subset:
    if not isinstance(value, Mapping) or value.get("version") != SUBSET_VERSION:
        raise ShardError(f"{what} is not a subset file of version {SUBSET_VERSION}")
    expected = {"version", "ids", "key", "stratify", "digest", "manifest_digest"}
    if set(value) != expected:
        raise ShardError(f"{what} has the fields {sorted(value)}; expected {sorted(expected)}")
    ids = tuple(str(sample_id) for sample_id in value["ids"])
    if ids_digest(ids) != value["digest"]:
        raise ShardError(f"{what} was altered: its ids do not have the recorded digest")
    return Subset(
        ids=ids,
        key=str(value["key"]),
        stratify=tuple(str(name) for name in value["stratify"]),
        digest=str(value["digest"]),
        manifest_digest=str(value["manifest_digest"]),
    )
