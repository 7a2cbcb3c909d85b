"""The data order: an endless list of draws that depends on the seed and the ids, never on ranks or workers.

Draw `n` belongs to epoch `n // num_samples`. An epoch visits shards in random order and shuffles inside blocks, so
that neighbouring draws read neighbouring bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int64

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.mixture import Seat, block_seats
from lhmforge.datasets.shards import ShardEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Place `number` of the endless list, and the index of the sample that is drawn there."""

    number: int
    sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleIndex:
    """Where every chosen sample lies; small enough to copy to each worker."""

    entries: tuple[ShardEntry, ...]
    shard_of: Int64[np.ndarray, " N"]
    shard_uris: tuple[str, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(entry.key for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def build_index(manifest: Manifest, ids: Sequence[str]) -> SampleIndex:
    """The index of `ids` in their order; raises `ShardError` for no ids, unknown or repeated ones, missing shards."""
    if not ids:
        raise ShardError(f"no samples of {manifest.path} were chosen; the subset or split is empty")
    if len(set(ids)) != len(ids):
        raise ShardError(f"the chosen samples of {manifest.path} name an id twice")
    rows = manifest.select(ids)
    _require_shards(manifest, rows)
    places = zip(rows["key"], rows["offset"], rows["num_bytes"], rows["sha256"], strict=True)
    shards = sorted(set(rows["shard"]))
    numbers = {shard: number for number, shard in enumerate(shards)}
    return SampleIndex(
        entries=tuple(
            ShardEntry(key=key, offset=int(offset), num_bytes=int(num_bytes), sha256=sha256)
            for key, offset, num_bytes, sha256 in places
        ),
        shard_of=np.array([numbers[shard] for shard in rows["shard"]], np.int64),
        shard_uris=tuple(manifest.shard_uri(shard) for shard in shards),
    )


def epoch_order(shard_of: Int64[np.ndarray, " N"], *, seed: int, epoch: int, block: int) -> Int64[np.ndarray, " N"]:
    """A permutation of the samples: shards in random order, then shuffled within runs of `block` samples."""
    rng = np.random.default_rng([seed, epoch])
    shards = rng.permutation(int(shard_of.max()) + 1)
    order = np.argsort(shards[shard_of], kind="stable")
    runs = [rng.permutation(order[start : start + block]) for start in range(0, len(order), block)]
    return np.concatenate(runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDraws:
    """The draws of one rank from `first` on: runs of `batch_size`, `stride` apart; endless.

    `sources` are disjoint lists of sample indices; with several, draws are shared by `weights` within every
    `mixture_block` (see `mixture`), and each source has epochs of its own.
    """

    shard_of: Int64[np.ndarray, " N"]
    seed: int
    block: int
    first: int
    stride: int
    batch_size: int
    sources: tuple[Int64[np.ndarray, " _"], ...] = ()  # empty: one source of all samples
    weights: tuple[float, ...] = (1.0,)
    mixture_block: int = 1

    def of_worker(self, worker: int, num_workers: int) -> Iterator[Draw]:
        """Every `num_workers`-th run, beginning with the `worker`-th."""
        orders = [_SourceOrder(self, members) for members in self.sources or (np.arange(len(self.shard_of)),)]
        at, seats = -1, list[Seat]()
        start = self.first + worker * self.stride
        while True:
            for number in range(start, start + self.batch_size):
                seat = Seat(source=0, index=number)
                if len(orders) > 1:
                    if number // self.mixture_block != at:
                        at = number // self.mixture_block
                        seats = block_seats(at, block=self.mixture_block, weights=self.weights, seed=self.seed)
                    seat = seats[number % self.mixture_block]
                yield Draw(number=number, sample=orders[seat.source].sample(seat.index))
            start += num_workers * self.stride


class _SourceOrder:
    """The endless order of one source's samples; remembers the epoch it is in."""

    def __init__(self, draws: TrainingDraws, members: Int64[np.ndarray, " N"]) -> None:
        self._draws, self._members = draws, members
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def sample(self, index: int) -> int:
        epoch, place = divmod(index, len(self._members))
        if epoch != self._epoch:
            draws, shards = self._draws, self._draws.shard_of[self._members]
            self._epoch, self._order = epoch, epoch_order(shards, seed=draws.seed, epoch=epoch, block=draws.block)
        return int(self._members[self._order[place]])


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationDraws:
    """The samples of `order`, one after the other; runs of `batch_size`, the last one may be shorter."""

    order: Int64[np.ndarray, " N"]
    batch_size: int

    def of_worker(self, worker: int, num_workers: int) -> Iterator[Draw]:
        """Every `num_workers`-th run, beginning with the `worker`-th."""
        for start in range(worker * self.batch_size, len(self.order), num_workers * self.batch_size):
            for number in range(start, min(start + self.batch_size, len(self.order))):
                yield Draw(number=number, sample=int(self.order[number]))


def evaluation_order(num_samples: int, *, batch_size: int, rank: int, world_size: int) -> Int64[np.ndarray, " N"]:
    """The samples that `rank` judges: every `world_size`-th batch from its own on.

    With several ranks each gets equally many full batches (a sharded model needs all of them at every batch), so some
    samples come again; alone, every sample comes once.
    """
    numbers = np.arange(num_samples, dtype=np.int64)
    if world_size == 1:
        return numbers
    num_batches = -(-num_samples // (batch_size * world_size))
    padded = np.resize(numbers, num_batches * world_size * batch_size)
    return padded.reshape(num_batches, world_size, batch_size)[:, rank].reshape(-1)


def _require_shards(manifest: Manifest, rows: pd.DataFrame) -> None:
    """One listing per folder, so that a missing file is told before hours of training and not after."""
    ends = rows.assign(end=rows["offset"] + rows["num_bytes"]).groupby("shard")["end"].max().to_dict()
    places = {shard: manifest.shard_uri(shard) for shard in ends}
    sizes = {
        storage.join_uri(folder, name): size
        for folder in sorted({storage.parent_uri(uri) for uri in places.values()})
        for name, size in storage.list_files(folder).items()
    }
    for shard, end in ends.items():
        uri = places[shard]
        if uri not in sizes:
            raise ShardError(f"shard {uri} is missing; the manifest needs it (try lhmforge fsck)")
        if sizes[uri] < end:
            raise ShardError(f"shard {uri} is torn: it has {sizes[uri]} bytes, not {end}")
