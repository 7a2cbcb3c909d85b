"""Every step holds its sources by weight, on any number of ranks, from any place on."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lhmforge.datasets.errors import ConfigError, ShardError
from lhmforge.datasets.loader import BatchLoader, LoaderConfig
from lhmforge.datasets.manifest_join import join_manifests
from lhmforge.datasets.mixture import Mixture, MixturePart, block_seats, seats_before

CONFIG = LoaderConfig(
    batch_size=2, num_target_views=1, source_size=(24, 40), target_size=(18, 30), head_size=16, seed=7, shuffle_block=4
)
WEIGHTS = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=5)


@given(weights=WEIGHTS, num_draws=st.integers(0, 400))
def test_seats_are_those_of_giving_them_one_by_one(weights: list[float], num_draws: int) -> None:
    share, counts = np.array(weights), np.zeros(len(weights), np.int64)
    for _ in range(num_draws):
        counts[np.argmax(share / (2 * counts + 1))] += 1
    assert seats_before(num_draws, weights).tolist() == counts.tolist()


@given(weights=WEIGHTS, block=st.integers(1, 64), number=st.integers(0, 50))
def test_a_block_holds_each_source_within_a_draw_or_two_of_its_share(
    weights: list[float], block: int, number: int
) -> None:
    seats = block_seats(number, block=block, weights=weights, seed=3)
    counts = Counter(seat.source for seat in seats)
    for source, weight in enumerate(weights):
        assert abs(counts[source] - block * weight / sum(weights)) <= 1 + (len(weights) - 1) / 2
    before = seats_before(number * block, weights)
    for source, first in enumerate(before):
        assert sorted(seat.index for seat in seats if seat.source == source) == list(
            range(first, first + counts[source])
        )


def test_a_small_weight_gets_its_share_in_the_long_run() -> None:
    assert seats_before(1_000_000, [0.999, 0.001]).tolist() == pytest.approx([999_000, 1_000], abs=1)


def _loader(samples: Any, world_size: int, rank: int, **changes: int) -> BatchLoader:
    ids = samples.manifest.ids()
    parts = (MixturePart(name="few", weight=3.0, ids=ids[:2]), MixturePart(name="many", weight=1.0, ids=ids[2:]))
    return BatchLoader(
        replace(CONFIG, **changes),
        samples.manifest,
        ids,
        rank=rank,
        world_size=world_size,
        mixture=Mixture(parts=parts, block=8),
    )


def _keys(ranks: list[BatchLoader], steps: int) -> list[str]:
    """Ids of `steps` rounds over the ranks, in global order."""
    taken = zip(*(itertools.islice(iter(rank), steps) for rank in ranks), strict=True)
    return [key for batches in taken for batch in batches for key in batch.sample_ids]


def test_weights_hold_in_every_step_and_not_by_size(ten_samples: Any) -> None:
    few = set(ten_samples.manifest.ids()[:2])
    loader = _loader(ten_samples, 1, 0)
    keys = _keys([loader], 24)
    for step in range(6):
        assert sum(key in few for key in keys[8 * step : 8 * step + 8]) == 6
    assert loader.drain_composition() == {"few": 36, "many": 12} and loader.drain_composition() == {"few": 0, "many": 0}
    late = [key for key in keys if key not in few]
    assert Counter(late[:8]) == Counter(ten_samples.manifest.ids()[2:]), "a source's epoch shows all of it once"


def test_ranks_workers_and_restarts_keep_the_order(ten_samples: Any) -> None:
    alone = _keys([_loader(ten_samples, 1, 0)], 12)
    pair = [_loader(ten_samples, 2, rank) for rank in range(2)]
    assert _keys(pair, 3) == alone[:12]
    later = _loader(ten_samples, 1, 0, num_workers=2)
    later.load_state_dict(pair[1].state_dict())
    assert _keys([later], 6) == alone[12:24]


def test_another_mixture_is_not_continued(ten_samples: Any) -> None:
    state = _loader(ten_samples, 1, 0).state_dict()
    with pytest.raises(ShardError, match="mixture"):
        _loader(ten_samples, 1, 0).load_state_dict({**state, "mixture": "few=1.0,many=1.0 per 8"})


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_weights_are_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        MixturePart(name="a", weight=weight, ids=("x",))


def test_joined_manifests_find_their_shards_and_refuse_doubles(make_corpus: Any, make_sample: Any) -> None:
    parts = [
        make_corpus([make_sample(f"{name}{n}", num_frames=2) for n in range(2)], name=name).manifest for name in "ab"
    ]
    joined = join_manifests(parts)
    assert set(joined.ids()) == {"a0", "a1", "b0", "b1"}
    keys = _keys([BatchLoader(CONFIG, joined, joined.ids())], 2)
    assert set(keys) == {"a0", "a1", "b0", "b1"}
    assert join_manifests(parts[:1]) is parts[0]
    with pytest.raises(ShardError, match="in two of"):
        join_manifests([parts[0], parts[0]])
