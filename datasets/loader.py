"""From a manifest to batches: WebDataset pipelines in worker processes, exactly resumable on any number of ranks.

A step of a job with `world_size` ranks consumes the next `batch_size * world_size` draws (see `draws`), rank `r` taking
the `r`-th run of `batch_size` of them; within a rank, worker `w` of `k` makes every `k`-th batch. So the position is
one number, counted in global samples, and neither workers nor ranks nor prefetching change what it means. Everything
random about draw `n` comes from a generator seeded with (seed, n).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import webdataset as wds
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from lhmforge.datasets.batch import Batch
from lhmforge.datasets.collate import BatchItem, collate, to_batch
from lhmforge.datasets.draws import Draw, EvaluationDraws, SampleIndex, TrainingDraws, build_index, evaluation_order
from lhmforge.datasets.errors import ConfigError, ForgeError, ShardError
from lhmforge.datasets.keyed import ids_digest
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.mixture import Mixture, MixturePart
from lhmforge.datasets.sample import parse_sample
from lhmforge.datasets.sampling import SamplingConfig, evaluation_example, training_example
from lhmforge.datasets.shards import read_sample

_ERRORS = "errors"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig(SamplingConfig):
    """How batches are made; `batch_size` is per rank, `num_workers` processes per rank (0: in this process)."""

    batch_size: int = 4
    seed: int = 0
    num_workers: int = 0
    prefetch_batches: int = 2  # per worker
    shuffle_block: int = 4096  # samples
    verify: bool = True  # compare every sample read with the manifest's sha256

    def __post_init__(self) -> None:
        SamplingConfig.__post_init__(self)
        for name, least in (("batch_size", 1), ("num_workers", 0), ("prefetch_batches", 1), ("shuffle_block", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")


class BatchLoader:
    """Endless training batches of one rank.

    `state_dict` after a batch and `load_state_dict` into a fresh loader continue with the next batch, bit for bit;
    with another `world_size` or `batch_size` the data position is kept. Raises `ShardError` at once for no ids, an id
    that the manifest lacks, or a shard that is missing or too short, and while iterating for one that was altered.
    """

    def __init__(
        self,
        config: LoaderConfig,
        manifest: Manifest,
        ids: Sequence[str],
        *,
        rank: int = 0,
        world_size: int = 1,
        mixture: Mixture | None = None,
    ) -> None:
        """`mixture` shares the draws between parts that hold all of `ids`; without it all samples are alike."""
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        self._config = config
        self._index = build_index(manifest, sorted(ids))
        self._rank, self._world_size = rank, world_size
        self._position = 0
        self._mixture = mixture or Mixture(parts=(MixturePart(name="data", weight=1.0, ids=tuple(ids)),), block=1)
        self._source_of = {key: number for number, part in enumerate(self._mixture.parts) for key in part.ids}
        assert self._source_of.keys() == set(ids), "the mixture's parts are not the chosen samples"
        self._seen = np.zeros(len(self._mixture.parts), np.int64)

    def drain_composition(self) -> dict[str, int]:
        """Samples of each source that this rank handed out since the last call."""
        seen, self._seen = self._seen, np.zeros_like(self._seen)
        return {part.name: int(count) for part, count in zip(self._mixture.parts, seen, strict=True)}

    @property
    def samples_consumed(self) -> int:
        """Draws consumed so far by all ranks together."""
        return self._position

    @property
    def num_samples(self) -> int:
        """Unique samples in an epoch."""
        return len(self._index)

    def __iter__(self) -> Iterator[Batch]:
        config = self._config
        stride = config.batch_size * self._world_size
        draws = TrainingDraws(
            shard_of=self._index.shard_of,
            seed=config.seed,
            block=config.shuffle_block,
            first=self._position + self._rank * config.batch_size,
            stride=stride,
            batch_size=config.batch_size,
            sources=self._sources(),
            weights=self._mixture.weights,
            mixture_block=self._mixture.block,
        )
        for batch in _batches(draws, _ItemMaker(self._index, config, train=True), config):
            self._position += stride
            np.add.at(self._seen, [self._source_of[key] for key in batch.sample_ids], 1)
            yield batch

    def state_dict(self) -> dict[str, int | str]:
        """Position, and what it is a position in."""
        return {"position": self._position, **self._order()}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Moves to a saved position before iterating; raises `ShardError` if it belongs to other data or order."""
        for name, here in self._order().items():
            if state.get(name) != here:
                raise ShardError(
                    f"the saved loader position has {name} {state.get(name)!r}, this run has {here!r}; "
                    "continue with the same data and seed, or start a new run"
                )
        self._position = int(state["position"])

    def _order(self) -> dict[str, int | str]:
        config = self._config
        order: dict[str, int | str] = {
            "seed": config.seed,
            "shuffle_block": config.shuffle_block,
            "ids_digest": ids_digest(self._index.ids),
        }
        return order if len(self._mixture.parts) == 1 else {**order, "mixture": self._mixture.describe()}

    def _sources(self) -> tuple[np.ndarray, ...]:
        """Indices of each part's samples, ascending."""
        source = np.array([self._source_of[key] for key in self._index.ids], np.int64)
        return tuple(np.flatnonzero(source == number) for number in range(len(self._mixture.parts)))


def evaluation_batches(
    config: LoaderConfig, manifest: Manifest, ids: Sequence[str], *, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Every sample once, in the order of `ids`; the last batch may be smaller. Nothing is random.

    Several ranks share the samples and get equally many batches, so that some samples come twice. Source: the first
    frontal frame; targets: spread over time; white background. Raises `ShardError` as `BatchLoader`.
    """
    index = build_index(manifest, ids)
    order = evaluation_order(len(index), batch_size=config.batch_size, rank=rank, world_size=world_size)
    draws = EvaluationDraws(order=order, batch_size=config.batch_size)
    yield from _batches(draws, _ItemMaker(index, config, train=False), config)


class _WorkerDraws(IterableDataset):
    """The draws of this worker process."""

    def __init__(self, draws: TrainingDraws | EvaluationDraws) -> None:
        super().__init__()
        self._draws = draws

    def __iter__(self) -> Iterator[Draw]:
        info = get_worker_info()
        if info is None:
            return self._draws.of_worker(0, 1)
        cv2.setNumThreads(0)  # workers are the parallelism; OpenCV's thread pool does not survive a fork
        return self._draws.of_worker(info.id, info.num_workers)


class _ItemMaker:
    """Draw -> item of a batch; an error that the user can fix becomes a value, so that its words cross processes."""

    def __init__(self, index: SampleIndex, config: LoaderConfig, *, train: bool) -> None:
        self._index, self._config, self._train = index, config, train

    def __call__(self, draw: Draw) -> BatchItem | str:
        try:
            return self._make(draw)
        except ForgeError as error:
            return str(error)

    def _make(self, draw: Draw) -> BatchItem:
        index, config = self._index, self._config
        uri = index.shard_uris[index.shard_of[draw.sample]]
        sample = parse_sample(read_sample(uri, index.entries[draw.sample], verify=config.verify))
        if self._train:
            example = training_example(sample, config, np.random.default_rng([config.seed, draw.number]))
        else:
            example = evaluation_example(sample, config)
        return BatchItem(
            example=example,
            body=sample.body.select(example.frames),
            world_to_camera=sample.world_to_camera[example.frames],
        )


def _batches(draws: TrainingDraws | EvaluationDraws, make: _ItemMaker, config: LoaderConfig) -> Iterator[Batch]:
    pipeline = wds.DataPipeline(
        _WorkerDraws(draws), wds.map(make), wds.batched(config.batch_size, collation_fn=_collate_or_errors)
    )
    loader = wds.WebLoader(
        pipeline,
        batch_size=None,
        num_workers=config.num_workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=config.prefetch_batches if config.num_workers else None,
    )
    for flat in loader:
        if _ERRORS in flat:
            raise ShardError("; ".join(flat[_ERRORS]))
        yield to_batch(flat)


def _collate_or_errors(items: list[BatchItem | str]) -> dict[str, Tensor | list[str]]:
    errors = [item for item in items if isinstance(item, str)]
    return {_ERRORS: errors} if errors else collate([item for item in items if not isinstance(item, str)])
