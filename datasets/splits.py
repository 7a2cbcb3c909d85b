"""Identity-disjoint splits: whole groups of samples go to training or to evaluation, and a report proves it.

Two samples are in one group when they share an identity (the manifest's `identity`; where that is empty, the channel),
an identity cluster or a duplicate group (found by curation over the whole corpus), or come from the same source video,
directly or through other samples. A group is never split.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lhmforge.datasets import storage
from lhmforge.datasets.codecs import encode_json
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.keyed import ids_digest, keyed_order
from lhmforge.datasets.manifest import Manifest

_LINKS = ("video_digest", "identity_cluster", "duplicate_group")
_SHARED = (
    "shared_samples", "shared_videos", "shared_identities", "shared_channels", "shared_clusters", "shared_duplicates",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Training and evaluation ids, each sorted; `digest` is that of the evaluation ids."""

    train_ids: tuple[str, ...]
    eval_ids: tuple[str, ...]
    num_train_groups: int
    num_eval_groups: int
    key: str
    digest: str
    manifest_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakageReport:
    """What the two sides of a split have in common; every tuple is empty when nothing leaks.

    `shared_channels` lists channels of samples without an identity; channels whose samples are told apart by identity
    may lie on both sides.
    """

    num_train: int
    num_eval: int
    shared_samples: tuple[str, ...]
    shared_videos: tuple[str, ...]
    shared_identities: tuple[str, ...]
    shared_channels: tuple[str, ...]
    shared_clusters: tuple[str, ...]
    shared_duplicates: tuple[str, ...]

    @property
    def disjoint(self) -> bool:
        return not any(getattr(self, name) for name in _SHARED)

    def save(self, path: str | Path) -> None:
        """Publishes the report as JSON."""
        shared = {name: list(getattr(self, name)) for name in _SHARED}
        counts = {"num_train": self.num_train, "num_eval": self.num_eval, "disjoint": self.disjoint}
        storage.publish(path, (encode_json({**counts, **shared}),))


def split_by_identity(
    manifest: Manifest,
    *,
    key: str,
    eval_fraction: float | None = None,
    num_eval: int | None = None,
    within: Sequence[str] | None = None,
) -> Split:
    """Holds out whole identities: `num_eval` of them, or `eval_fraction` of them (rounded, at least one).

    Which ones is decided by a keyed hash of the group's first id. Raises `ShardError` when fewer than two groups
    exist or nothing would be left to train on.
    """
    if (eval_fraction is None) == (num_eval is None):
        raise ShardError("give either eval_fraction or num_eval to split_by_identity")
    rows = manifest.accepted() if within is None else manifest.select(within)
    groups = _groups(rows)
    wanted = num_eval if num_eval is not None else max(1, round(len(groups) * (eval_fraction or 0.0)))
    if not 1 <= wanted < len(groups):
        raise ShardError(
            f"cannot hold out {wanted} of {len(groups)} identities of {manifest.path}: training and evaluation need at "
            "least one each; curate more people, or give the identity column of the input manifest"
        )
    held_out = set(keyed_order(key, groups)[:wanted])
    eval_ids = tuple(sorted(sample_id for name in held_out for sample_id in groups[name]))
    train_ids = tuple(sorted(sample_id for name, ids in groups.items() if name not in held_out for sample_id in ids))
    split = Split(
        train_ids=train_ids,
        eval_ids=eval_ids,
        num_train_groups=len(groups) - wanted,
        num_eval_groups=wanted,
        key=key,
        digest=ids_digest(eval_ids),
        manifest_digest=manifest.digest,
    )
    assert leakage_report(manifest, train_ids=train_ids, eval_ids=eval_ids).disjoint, "a split leaks"
    return split


def leakage_report(manifest: Manifest, *, train_ids: Sequence[str], eval_ids: Sequence[str]) -> LeakageReport:
    """Compares the two sides column by column, without the grouping that made them; raises on unknown ids."""
    train, held_out = manifest.select(train_ids), manifest.select(eval_ids)
    nameless_train, nameless_eval = (rows[rows["identity"] == ""] for rows in (train, held_out))
    return LeakageReport(
        num_train=len(train),
        num_eval=len(held_out),
        shared_samples=_shared(train["key"], held_out["key"]),
        shared_videos=_shared(train["video_digest"], held_out["video_digest"]),
        shared_identities=_shared(train["identity"], held_out["identity"]),
        shared_channels=_shared(nameless_train["channel"], nameless_eval["channel"]),
        shared_clusters=_shared(train["identity_cluster"], held_out["identity_cluster"]),
        shared_duplicates=_shared(train["duplicate_group"], held_out["duplicate_group"]),
    )


def _shared(left: Iterable[str], right: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted((set(left) & set(right)) - {""}))


def _groups(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Connected components (union-find): name of a group (its smallest id) -> its ids."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    columns = (rows[name] for name in ("key", "identity", "channel", *_LINKS))
    samples = list(zip(*columns, strict=True))
    for sample_id, identity, channel, *links in samples:
        tokens = [f"identity {identity}"] if identity else [f"channel {channel}"] if channel else []
        for token in (*tokens, *(f"{name} {link}" for name, link in zip(_LINKS, links, strict=True) if link)):
            parent[root(token)] = root(f"sample {sample_id}")
    groups: dict[str, list[str]] = {}
    for sample_id, *_ in sorted(samples):
        groups.setdefault(root(f"sample {sample_id}"), []).append(sample_id)
    return {members[0]: members for members in groups.values()}
