"""Order depends on seed and ids alone; stopping and resuming, workers and ranks change nothing; damage is told."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lhmforge.datasets.batch import Batch, BodyBatch
from lhmforge.datasets.draws import TrainingDraws, epoch_order
from lhmforge.datasets.errors import ConfigError, ShardError
from lhmforge.datasets.loader import BatchLoader, LoaderConfig, evaluation_batches
from lhmforge.datasets.manifest import Manifest

CONFIG = LoaderConfig(
    batch_size=2, num_target_views=3, source_size=(24, 40), target_size=(18, 30), head_size=16, seed=7, shuffle_block=4
)


def assert_same(left: Batch | BodyBatch, right: Batch | BodyBatch) -> None:
    for item in fields(left):
        ours, theirs = getattr(left, item.name), getattr(right, item.name)
        if isinstance(ours, BodyBatch):
            assert_same(ours, theirs)
        elif isinstance(ours, torch.Tensor):
            assert torch.equal(ours, theirs), item.name
        else:
            assert ours == theirs


def take(loader: BatchLoader, count: int) -> list[Batch]:
    return list(itertools.islice(iter(loader), count))


def test_shapes_and_ranges(ten_samples: Any) -> None:
    (batch,) = take(BatchLoader(CONFIG, ten_samples.manifest, ten_samples.manifest.ids()), 1)
    assert batch.source_image.shape == (2, 3, 40, 24) and batch.target_image.shape == (2, 3, 3, 30, 18)
    assert batch.head_image.shape == (2, 3, 16, 16) and batch.head_valid.dtype == torch.bool
    assert batch.intrinsics.shape == (2, 3, 3, 3) and batch.world_to_camera.shape == (2, 3, 4, 4)
    assert batch.body.betas.shape == (2, 10) and batch.body.body_pose.shape == (2, 3, 21, 3)
    for image in (batch.source_image, batch.target_image, batch.source_alpha, batch.target_alpha, batch.head_image):
        assert image.dtype == torch.float32 and image.min() >= 0.0 and image.max() <= 1.0
    moved = batch.to("cpu")
    assert_same(moved, batch)


def test_body_and_pixels_belong_to_the_same_frames(ten_samples: Any) -> None:
    """The grey level of a frame and the body's x translation both say which frame it is."""
    levels = {f"s{number:02d}": 20 * number for number in range(10)}
    for batch in take(BatchLoader(replace(CONFIG, half_body_probability=0.0), ten_samples.manifest, sorted(levels)), 6):
        for row, key in enumerate(batch.sample_ids):
            expected = [levels[key] + 8.0 * place for place in batch.body.transl[row, :, 0].tolist()]
            found = [grey_level(*view) for view in zip(batch.target_image[row], batch.target_alpha[row], strict=True)]
            assert found == pytest.approx(expected, abs=2.0)
            source = grey_level(batch.source_image[row], batch.source_alpha[row])
            assert source == pytest.approx(expected[0], abs=2.0), "the source is the first target's frame"


def grey_level(image: torch.Tensor, alpha: torch.Tensor) -> float:
    return float(image[0][alpha[0] > 0.99].median() * 255)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_in_the_middle_equals_no_stop(ten_samples: Any, num_workers: int) -> None:
    config, ids = replace(CONFIG, num_workers=num_workers), ten_samples.manifest.ids()
    undisturbed = take(BatchLoader(CONFIG, ten_samples.manifest, ids), 9)  # 18 draws: into the second epoch
    loader = BatchLoader(config, ten_samples.manifest, ids)
    first = take(loader, 3)
    resumed = BatchLoader(config, ten_samples.manifest, ids[::-1])
    resumed.load_state_dict(loader.state_dict())
    assert resumed.samples_consumed == 6
    for ours, theirs in zip(first + take(resumed, 6), undisturbed, strict=True):
        assert_same(ours, theirs)


def test_ranks_share_one_order_and_a_changed_world_size_keeps_the_place(ten_samples: Any) -> None:
    ids = ten_samples.manifest.ids()
    alone = [key for batch in take(BatchLoader(CONFIG, ten_samples.manifest, ids), 12) for key in batch.sample_ids]
    ranks = [BatchLoader(CONFIG, ten_samples.manifest, ids, rank=rank, world_size=2) for rank in range(2)]
    steps = list(zip(*(take(rank, 3) for rank in ranks), strict=True))
    together = [key for step in steps for batch in step for key in batch.sample_ids]
    assert together == alone[:12]
    assert ranks[0].state_dict() == ranks[1].state_dict()
    larger = [BatchLoader(CONFIG, ten_samples.manifest, ids, rank=rank, world_size=3) for rank in range(3)]
    for loader in larger:
        loader.load_state_dict(ranks[0].state_dict())
    continued = [
        key for step in zip(*(take(loader, 2) for loader in larger), strict=True) for b in step for key in b.sample_ids
    ]
    assert continued == alone[12:24]


def test_an_epoch_shows_every_sample_once_and_epochs_differ(ten_samples: Any) -> None:
    ids = ten_samples.manifest.ids()
    keys = [key for batch in take(BatchLoader(CONFIG, ten_samples.manifest, ids), 10) for key in batch.sample_ids]
    assert Counter(keys[:10]) == Counter(ids) == Counter(keys[10:])
    assert keys[:10] != keys[10:]
    other = BatchLoader(replace(CONFIG, seed=8), ten_samples.manifest, ids)
    assert [key for batch in take(other, 5) for key in batch.sample_ids] != keys[:10]


@given(
    num_samples=st.integers(1, 40),
    num_workers=st.integers(1, 4),
    world_size=st.integers(1, 3),
    batch_size=st.integers(1, 5),
)
def test_workers_and_ranks_partition_the_draws(
    num_samples: int, num_workers: int, world_size: int, batch_size: int
) -> None:
    shard_of = np.arange(num_samples) // 3

    def draws(rank: int) -> Iterator[int]:
        plan = TrainingDraws(
            shard_of=shard_of,
            seed=1,
            block=5,
            first=rank * batch_size,
            stride=world_size * batch_size,
            batch_size=batch_size,
        )
        streams = [plan.of_worker(worker, num_workers) for worker in range(num_workers)]
        for stream in itertools.cycle(streams):
            yield from (draw.number for draw in itertools.islice(stream, batch_size))

    ranks = [list(itertools.islice(draws(rank), 6 * batch_size)) for rank in range(world_size)]
    assert sorted(itertools.chain(*ranks)) == list(range(6 * batch_size * world_size))
    assert all(rank == sorted(rank) for rank in ranks)


def test_epoch_order_reads_shard_by_shard() -> None:
    shard_of = np.arange(100) // 10
    order = epoch_order(shard_of, seed=0, epoch=3, block=10)
    assert sorted(order) == list(range(100))
    assert all(len(set(shard_of[order[start : start + 10]])) == 1 for start in range(0, 100, 10))
    assert not np.array_equal(order, np.sort(order))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_is_finite_and_the_same_each_time(ten_samples: Any, num_workers: int) -> None:
    ids = ten_samples.manifest.ids()[3:8]
    config = replace(CONFIG, num_workers=num_workers)
    batches = list(evaluation_batches(config, ten_samples.manifest, ids))
    assert tuple(key for batch in batches for key in batch.sample_ids) == ids
    assert [batch.num_samples for batch in batches] == [2, 2, 1]
    for ours, theirs in zip(batches, evaluation_batches(CONFIG, ten_samples.manifest, ids), strict=True):
        assert_same(ours, theirs)
    assert all((batch.background == 1.0).all() for batch in batches)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_data_is_told_in_words(make_corpus: Callable, make_sample: Callable, num_workers: int) -> None:
    corpus = make_corpus([make_sample(f"s{number}", num_frames=2) for number in range(4)], per_shard=2)
    manifest: Manifest = corpus.manifest
    config = replace(CONFIG, num_workers=num_workers)
    shard = Path(manifest.shard_uri("shards/0001.tar"))
    good = shard.read_bytes()
    shard.write_bytes(good[:2048] + bytes([good[2048] ^ 255]) + good[2049:])
    with pytest.raises(ShardError, match="altered") as told:
        take(BatchLoader(config, manifest, manifest.ids()), 4)
    assert "Traceback" not in str(told.value)
    shard.write_bytes(good[:2048])
    with pytest.raises(ShardError, match="torn"):
        BatchLoader(config, manifest, manifest.ids())
    shard.unlink()
    with pytest.raises(ShardError, match=r"0001\.tar is missing"):
        BatchLoader(config, manifest, manifest.ids())
    with pytest.raises(ShardError, match="missing"):
        list(evaluation_batches(config, manifest, manifest.ids()))


def test_empty_unknown_and_foreign(ten_samples: Any) -> None:
    manifest, ids = ten_samples.manifest, ten_samples.manifest.ids()
    with pytest.raises(ShardError, match="empty"):
        BatchLoader(CONFIG, manifest, [])
    with pytest.raises(ShardError, match="nobody"):
        BatchLoader(CONFIG, manifest, ["nobody"])
    with pytest.raises(ShardError, match="twice"):
        BatchLoader(CONFIG, manifest, ["s00", "s00"])
    state = BatchLoader(CONFIG, manifest, ids).state_dict()
    with pytest.raises(ShardError, match="ids_digest"):
        BatchLoader(CONFIG, manifest, ids[:5]).load_state_dict(state)
    with pytest.raises(ShardError, match="seed"):
        BatchLoader(replace(CONFIG, seed=1), manifest, ids).load_state_dict(state)
    with pytest.raises(ConfigError, match="batch_size"):
        replace(CONFIG, batch_size=0)
    with pytest.raises(ConfigError, match="half_body_probability"):
        replace(CONFIG, half_body_probability=1.5)
