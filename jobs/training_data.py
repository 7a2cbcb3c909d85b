"""Which samples a run trains on, in what proportion, and which it is judged by."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lhmforge.datasets.errors import BodyError, ConfigError
from lhmforge.datasets.keyed import ids_digest
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.manifest_join import join_manifests
from lhmforge.datasets.mixture import Mixture, MixturePart
from lhmforge.datasets.splits import leakage_report, split_by_identity
from lhmforge.datasets.subsets import nested_subset
from lhmforge.datasets.synthetic.corpus import CHANNEL
from lhmforge.jobs.config import DataConfig

_log = logging.getLogger(__name__)
_SYNTHETIC_STAGE = "synthesize"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """A manifest (of all sources) and disjoint lists of its sample ids."""

    manifest: Manifest
    parts: tuple[MixturePart, ...]  # what is trained on, by source
    eval_ids: tuple[str, ...]
    pool_ids: tuple[str, ...]  # samples of the first source on the training side, whole; subsets are taken from these

    @property
    def train_ids(self) -> tuple[str, ...]:
        return tuple(sample_id for part in self.parts for sample_id in part.ids)

    @property
    def train_digest(self) -> str:
        return ids_digest(self.train_ids)

    @property
    def eval_digest(self) -> str:
        return ids_digest(self.eval_ids)

    @property
    def curation_fingerprints(self) -> tuple[str, ...]:
        """The distinct fingerprints of the curation that made the pool: the same for every nested subset of it."""
        return tuple(sorted(set(self.manifest.select(self.pool_ids)["fingerprint"])))

    def mixture(self, global_batch_size: int) -> Mixture:
        """The parts by weight within every step of `global_batch_size` samples."""
        return Mixture(parts=self.parts, block=global_batch_size)


def choose_data(config: DataConfig) -> TrainingData:
    """Loads the manifests and splits them; the same config and manifests give the same ids everywhere.

    Raises:
        ShardError: a manifest is unreadable, has too few identities for the split, or shares samples with another.
        ConfigError: the subset is larger than what is left to train on, or nothing is left of a source.
    """
    manifests = [Manifest.load(source.manifest) for source in config.sources]
    joined = join_manifests(manifests)
    split = split_by_identity(manifests[0], key=config.split_key, num_eval=config.num_eval)
    by_source = [split.train_ids]
    by_source += [_without_held_out(joined, part, split.eval_ids) for part in manifests[1:]]
    if config.synthetic_only:
        by_source = [_synthetic(joined, ids) for ids in by_source]
    pool = by_source[0]
    if config.subset_size is not None:
        by_source[0] = _subset(config, joined, pool, num_eval_clips=len(split.eval_ids))
    parts = tuple(
        MixturePart(name=name, weight=source.weight, ids=ids)
        for name, source, ids in zip(config.names, config.sources, by_source, strict=True)
        if ids
    )
    if not parts or (len(parts) < len(config.sources) and not config.synthetic_only):
        raise ConfigError(
            f"data: nothing is left to train on ({_counts(config, by_source)}); see --synthetic-only and num_eval"
        )
    return TrainingData(manifest=joined, parts=parts, eval_ids=split.eval_ids, pool_ids=pool)


def require_body(manifest: Manifest, ids: Sequence[str], digest: str) -> None:
    """Raises `BodyError` unless all of `ids` were annotated with the body file of this digest."""
    found = set(manifest.select(ids)["body_digest"])
    if found != {digest}:
        raise BodyError(
            f"{manifest.path}: its body parameters belong to body file(s) {sorted(name[:16] for name in found)}, "
            f"the model stands on {digest[:16]}; use the body file that the data was curated with (--body)"
        )


def _without_held_out(joined: Manifest, part: Manifest, eval_ids: Sequence[str]) -> tuple[str, ...]:
    """The samples of `part` that share no video, person or nameless channel with the held-out ones."""
    shared = leakage_report(joined, train_ids=part.ids(), eval_ids=eval_ids)
    rows = part.accepted()
    leaks = rows["video_digest"].isin(shared.shared_videos) | rows["identity"].isin(shared.shared_identities)
    leaks |= (rows["identity"] == "") & rows["channel"].isin(shared.shared_channels)
    if leaks.any():
        _log.warning("%s: %d samples of held-out people or videos are left out of training", part.path, leaks.sum())
    kept = tuple(sorted(rows["key"][~leaks]))
    if kept and not leakage_report(joined, train_ids=kept, eval_ids=eval_ids).disjoint:
        raise ConfigError(f"{part.path}: shares people with those held out in a way that cannot be taken apart")
    return kept


def _synthetic(joined: Manifest, ids: Sequence[str]) -> tuple[str, ...]:
    rows = joined.select(ids)
    return tuple(rows["key"][(rows["channel"] == CHANNEL) | (rows["stage"] == _SYNTHETIC_STAGE)])


def _subset(config: DataConfig, joined: Manifest, pool: tuple[str, ...], *, num_eval_clips: int) -> tuple[str, ...]:
    size = config.subset_size
    assert size is not None
    if size > len(pool):
        raise ConfigError(
            f"data.subset_size: {size} of {len(pool)} training samples ({num_eval_clips} of "
            f"{len(pool) + num_eval_clips} are held out for evaluation)"
        )
    return nested_subset(joined, size, config.subset_key, stratify=config.stratify, within=pool).ids


def _counts(config: DataConfig, by_source: Sequence[Sequence[str]]) -> str:
    return ", ".join(f"{name}: {len(ids)} samples" for name, ids in zip(config.names, by_source, strict=True))
