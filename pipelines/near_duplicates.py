"""Near-duplicates over a corpus: samples that show the same footage, re-encoded, resized, cropped a little or trimmed.

Two steps. Candidates: hashes of single frames are sorted by eight rotations of their bits, and each is compared with
its neighbours of equal first 16 bits, so that the work grows with the number of hashes and not with its square. Proof:
the key frames of a candidate pair are laid over each other at every shift in time; at the best shift, whole frames
and the persons' windows must agree over most of the shorter sample. Windows matter: two takes before one wall have
like frames. The result depends on the set of samples alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, Int64, UInt64

from lhmforge.datasets.errors import ConfigError
from lhmforge.datasets.records import Signature

Policy: TypeAlias = Literal["keep", "drop"]
_ROTATIONS = tuple(range(0, 64, 8))
_CHUNK = 50_000  # hashes whose neighbours are looked at together: bounds the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicateConfig:
    """What counts as the same footage, and what becomes of it; thresholds were measured, see docs/corpus.md.

    `policy` "keep" only names the groups; "drop" rejects all but the best sample of each, which is the one with the
    most frames times the person's height. Distances are means over the aligned key frames, in bits of 64.
    """

    policy: Policy = "keep"
    max_frame_bits: float = 15.0
    max_person_bits: float = 18.0
    min_overlap: float = 0.5  # share of the shorter sample's key frames

    def __post_init__(self) -> None:
        if not (0 <= self.max_frame_bits < 32 and 0 <= self.max_person_bits < 32 and 0 < self.min_overlap <= 1):
            raise ConfigError("near_duplicates: bits must lie in 0..32 (32: chance) and min_overlap in 0..1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """One sample as the join sees it; samples of one video are not compared, they show different moments."""

    key: str
    video_digest: str
    signature: Signature
    quality: float  # the best of a group is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateFindings:
    """`group` of every sample that has a duplicate; `kept` names, for each dropped sample, one that stays."""

    group: Mapping[str, str]
    kept: Mapping[str, str]


def find_near_duplicates(footage: Iterable[Footage], config: NearDuplicateConfig) -> DuplicateFindings:
    """Groups and, under the policy "drop", who gives way to whom; the order of `footage` does not matter."""
    ordered = sorted(footage, key=lambda item: item.key)
    pairs = duplicate_pairs(ordered, config)
    neighbours: dict[int, list[int]] = {}
    for first, second in pairs.tolist():
        neighbours.setdefault(first, []).append(second)
        neighbours.setdefault(second, []).append(first)
    keys = [item.key for item in ordered]
    group = {keys[member]: keys[members[0]] for members in _components(neighbours) for member in members}
    kept: dict[str, str] = {}
    if config.policy == "drop":
        stays: set[int] = set()
        for index in sorted(neighbours, key=lambda i: (-ordered[i].quality, keys[i])):
            better = [other for other in neighbours[index] if other in stays]
            if better:
                best = min(better, key=lambda i: (-ordered[i].quality, keys[i]))
                kept[keys[index]] = keys[best]
            else:
                stays.add(index)
    return DuplicateFindings(group=group, kept=kept)


def duplicate_pairs(ordered: Sequence[Footage], config: NearDuplicateConfig) -> Int64[np.ndarray, "P 2"]:
    """Index pairs (first < second) of samples that show the same footage."""
    if not ordered:
        return np.zeros((0, 2), np.int64)
    sizes = [len(item.signature.times_s) for item in ordered]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    times = np.concatenate([item.signature.times_s for item in ordered]).astype(np.float32)
    frames = np.concatenate([item.signature.frame_hashes for item in ordered]).astype(np.uint64)
    persons = np.concatenate([item.signature.person_hashes for item in ordered]).astype(np.uint64)
    videos = np.unique([item.video_digest for item in ordered], return_inverse=True)[1].astype(np.int64)
    candidates = _candidates(starts, frames, persons, videos)
    measured = pair_distances(candidates, starts, times, frames, persons, config.min_overlap)
    same = (measured[:, 0] <= config.max_frame_bits) & (measured[:, 1] <= config.max_person_bits)
    return candidates[same]


def pair_distances(
    pairs: Int64[np.ndarray, "P 2"],
    starts: Int64[np.ndarray, " N1"],
    times_s: Float32[np.ndarray, " K"],
    frames: UInt64[np.ndarray, " K"],
    persons: UInt64[np.ndarray, " K"],
    min_overlap: float,
) -> Float32[np.ndarray, "P 2"]:
    """Mean bits between frames and between persons at the best shift in time; 64 where no shift overlaps enough."""
    from lhmforge.pipelines.hash_kernels import align

    found = np.full((len(pairs), 2), 64.0, np.float32)
    align(pairs, starts, times_s, frames, persons, min_overlap, found)
    return found


def _candidates(
    starts: Int64[np.ndarray, " N1"],
    frames: UInt64[np.ndarray, " K"],
    persons: UInt64[np.ndarray, " K"],
    videos: Int64[np.ndarray, " N"],
) -> Int64[np.ndarray, "P 2"]:
    from lhmforge.pipelines.hash_kernels import neighbours

    num_samples = len(starts) - 1
    owners = np.repeat(np.arange(num_samples), np.diff(starts))
    keep = _first_of_each(owners, frames)
    owners, frames, persons = owners[keep], frames[keep], persons[keep]
    found = np.zeros(0, np.int64)
    for shift in _ROTATIONS:
        turned = (frames << np.uint64(shift)) | (frames >> np.uint64((64 - shift) % 64)) if shift else frames
        order = np.lexsort((owners, turned))
        columns = turned[order], frames[order], persons[order], owners[order], videos[owners[order]]
        for begin in range(0, len(order), _CHUNK):
            codes = neighbours(*columns, begin, min(begin + _CHUNK, len(order)), num_samples)
            found = np.union1d(found, codes)
    return np.stack(np.divmod(found, num_samples), axis=1).astype(np.int64)


def _first_of_each(owners: Int64[np.ndarray, " K"], frames: UInt64[np.ndarray, " K"]) -> Int64[np.ndarray, " M"]:
    """A still sample repeats its hashes; each is looked up once."""
    order = np.lexsort((frames, owners))
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(owners[order]) != 0) | (frames[order][1:] != frames[order][:-1])
    return np.sort(order[fresh])


def _components(neighbours: Mapping[int, Sequence[int]]) -> Iterator[list[int]]:
    """Connected components, each sorted."""
    seen: set[int] = set()
    for start in sorted(neighbours):
        if start in seen:
            continue
        members, waiting = {start}, [start]
        while waiting:
            fresh = set(itertools.chain.from_iterable(neighbours[node] for node in waiting)) - members
            members |= fresh
            waiting = list(fresh)
        seen |= members
        yield sorted(members)
