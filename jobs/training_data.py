"""Which samples a run trains on and which it is judged by."""

from __future__ import annotations

from dataclasses import dataclass

from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.keyed import ids_digest
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.splits import split_by_identity
from lhmforge.datasets.subsets import nested_subset
from lhmforge.jobs.config import DataConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """A manifest and two disjoint lists of its sample ids."""

    manifest: Manifest
    train_ids: tuple[str, ...]
    eval_ids: tuple[str, ...]
    pool_ids: tuple[str, ...]  # all samples on the training side; `train_ids` are these or a nested subset

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


def choose_data(config: DataConfig) -> TrainingData:
    """Loads the manifest and splits it; the same config and manifest give the same ids everywhere.

    Raises:
        ShardError: the manifest is unreadable, or has too few identities for the split.
        ConfigError: the subset is larger than what is left to train on.
    """
    manifest = Manifest.load(config.manifest)
    split = split_by_identity(manifest, key=config.split_key, num_eval=config.num_eval)
    train_ids: tuple[str, ...] = split.train_ids
    if config.subset_size is not None:
        if config.subset_size > len(train_ids):
            raise ConfigError(
                f"data.subset_size: {config.subset_size} of {len(train_ids)} training samples "
                f"({len(split.eval_ids)} of {len(manifest.ids())} are held out for evaluation)"
            )
        subset = nested_subset(
            manifest, config.subset_size, config.subset_key, stratify=config.stratify, within=split.train_ids
        )
        train_ids = subset.ids
    return TrainingData(manifest=manifest, train_ids=train_ids, eval_ids=split.eval_ids, pool_ids=split.train_ids)
