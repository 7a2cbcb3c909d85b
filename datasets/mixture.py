"""How the draws of every step are shared between data sources: by weight, whatever the sources' sizes.

Seats are given one by one to the source with the largest w / (2 n + 1), where n is what it has so far (the method of
Sainte-Lague): any run of draws holds each source within about one draw of its share, a source with a small weight too.
The list of seats depends on the weights alone, so that it is the same for any number of ranks, and it can be entered
anywhere. Seats are shuffled within blocks, else a rank could see one source only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from lhmforge.datasets.errors import ConfigError

_SHUFFLE = 0x6D6978  # tells these random numbers from those of other uses of the seed


@dataclass(frozen=True, slots=True, kw_only=True)
class MixturePart:
    """One source: its samples, and its share of every step relative to the other parts' weights."""

    name: str
    weight: float
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"data source {self.name!r}: weight {self.weight} must be a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Sources with disjoint samples; `block` is the number of draws of one optimiser step."""

    parts: tuple[MixturePart, ...]
    block: int

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"data sources: names {names} must be distinct, and at least one")
        assert self.block >= 1

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(part.weight for part in self.parts)

    def describe(self) -> str:
        """Everything that the order of draws depends on, besides ids and seed."""
        shares = ",".join(f"{part.name}={part.weight!r}" for part in self.parts)
        return f"{shares} per {self.block}"


def seats_before(num_draws: int, weights: Sequence[float]) -> Int64[np.ndarray, " K"]:
    """How many of the first `num_draws` draws each source has."""
    share = np.asarray(weights, np.float64)
    quota = share / share.sum() * num_draws
    # Never more than the final counts: a source falls behind its quota by less than the number of sources.
    counts = np.maximum(0, np.floor(quota).astype(np.int64) - len(share))
    while counts.sum() < num_draws:
        counts[np.argmax(share / (2 * counts + 1))] += 1
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A draw's source, and which draw of that source it is."""

    source: int
    index: int


def block_seats(number: int, *, block: int, weights: Sequence[float], seed: int) -> list[Seat]:
    """The seats of the `number`-th block, in the order in which they are drawn."""
    share = np.asarray(weights, np.float64)
    counts = seats_before(number * block, weights)
    seats = []
    for _ in range(block):
        source = int(np.argmax(share / (2 * counts + 1)))
        seats.append(Seat(source=source, index=int(counts[source])))
        counts[source] += 1
    order = np.random.default_rng([seed, _SHUFFLE, number]).permutation(block)
    return [seats[place] for place in order]
