"""Subsets are nested, keyed, proportionate when asked, and tied to their manifest."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.manifest import Manifest, ManifestRow, write_manifest
from lhmforge.datasets.records import SourceVideo
from lhmforge.datasets.subsets import Subset, nested_subset

STRATIFY = st.lists(st.sampled_from(["channel", "num_frames", "score_jitter", "licence"]), max_size=2, unique=True)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """120 rows: 90 of channel "big", 30 of channel "small"; all of one licence; scores missing."""
    rows = [
        ManifestRow(
            key=f"k{number:03d}",
            status="accepted",
            stage="pack",
            source=SourceVideo(uri="", source_id=str(number), channel="big" if number % 4 else "small"),
            num_frames=number % 7,
        )
        for number in range(120)
    ]
    return write_manifest(tmp_path_factory.mktemp("subsets") / "m.parquet", rows)


@given(sizes=st.tuples(st.integers(1, 120), st.integers(1, 120)), key=st.text(max_size=8), stratify=STRATIFY)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_smaller_is_inside_larger(manifest: Manifest, sizes: tuple[int, int], key: str, stratify: list[str]) -> None:
    small, large = (nested_subset(manifest, size, key, stratify) for size in sorted(sizes))
    assert large.ids[: len(small.ids)] == small.ids
    assert len(set(large.ids)) == max(sizes)


@given(size=st.integers(8, 120), key=st.text(max_size=8))
@settings(max_examples=40, deadline=None)
def test_strata_keep_their_proportions(manifest: Manifest, size: int, key: str) -> None:
    subset = nested_subset(manifest, size, key, ["channel"])
    small = (manifest.select(subset.ids)["channel"] == "small").sum()
    assert abs(small - size / 4) <= 1


def test_keys_matter_and_order_of_candidates_does_not(manifest: Manifest) -> None:
    some = manifest.ids()[:60]
    assert nested_subset(manifest, 20, "a").ids != nested_subset(manifest, 20, "b").ids
    assert nested_subset(manifest, 20, "a", within=some) == nested_subset(manifest, 20, "a", within=some[::-1])
    assert set(nested_subset(manifest, 20, "a", within=some).ids) <= set(some)


def test_file_round_trip_and_its_checks(manifest: Manifest, tmp_path: Path) -> None:
    subset = nested_subset(manifest, 10, "a", ["channel"])
    subset.save(tmp_path / "subset.json")
    assert Subset.load(tmp_path / "subset.json", manifest) == subset
    text = (tmp_path / "subset.json").read_text()
    other = write_manifest(tmp_path / "other.parquet", [])
    with pytest.raises(ShardError, match="belongs to manifest"):
        Subset.load(tmp_path / "subset.json", other)
    for broken, words in (
        (text.replace(subset.ids[0], "k999"), "altered"),
        (text.replace('"key"', '"keys"'), "fields"),
        (text.replace('"version":1', '"version":7'), "version"),
        ("[1]", "version"),
        ("{", "not readable JSON"),
        (text.replace('"ids":[', '"ids":3,"was":['), "fields"),
    ):
        storage.publish(tmp_path / "broken.json", (broken.encode(),))
        with pytest.raises(ShardError, match=words):
            Subset.load(tmp_path / "broken.json", manifest)


def test_impossible_requests(manifest: Manifest) -> None:
    for size in (0, 121):
        with pytest.raises(ShardError, match="120 samples"):
            nested_subset(manifest, size, "a")
    with pytest.raises(ShardError, match="nonsense"):
        nested_subset(manifest, 3, "a", ["nonsense"])
