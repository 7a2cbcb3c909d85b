"""No identity and no source video lies on both sides of a split, whatever the corpus looks like."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lhmforge.datasets.codecs import decode_json
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.manifest import Manifest, ManifestRow, write_manifest
from lhmforge.datasets.records import SourceVideo
from lhmforge.datasets.splits import leakage_report, split_by_identity

Sample = tuple[str, str, str]  # identity, channel, video digest


@pytest.fixture(scope="module")
def make_manifest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Sample]], Manifest]:
    folder = tmp_path_factory.mktemp("splits")

    def make(samples: list[Sample]) -> Manifest:
        rows = [
            ManifestRow(
                key=f"k{number:03d}",
                status="accepted",
                stage="pack",
                source=SourceVideo(uri="", source_id=str(number), identity=identity, channel=channel),
                video_digest=video,
            )
            for number, (identity, channel, video) in enumerate(samples)
        ]
        return write_manifest(folder / "m.parquet", rows)

    return make


def test_twelve_identities(make_manifest: Callable[[list[Sample]], Manifest]) -> None:
    manifest = make_manifest([(f"person{number % 12}", "synthetic", f"v{number}") for number in range(40)])
    split = split_by_identity(manifest, eval_fraction=0.2, key="study")
    assert (split.num_eval_groups, split.num_train_groups) == (2, 10)
    assert sorted(split.train_ids + split.eval_ids) == list(manifest.ids())
    people = manifest.accepted().set_index("key")["identity"]
    assert not set(people[list(split.train_ids)]) & set(people[list(split.eval_ids)])
    assert split == split_by_identity(manifest, num_eval=2, key="study")
    assert split.eval_ids != split_by_identity(manifest, num_eval=2, key="other").eval_ids


def test_two_people_of_one_video_stay_together(make_manifest: Callable[[list[Sample]], Manifest]) -> None:
    manifest = make_manifest([("a", "", "v0"), ("b", "", "v0"), ("b", "", "v1"), ("c", "", "v2"), ("d", "", "v3")])
    for number in range(6):
        split = split_by_identity(manifest, num_eval=1, key=str(number))
        assert {"k000", "k001", "k002"} <= set(split.train_ids) or split.eval_ids == ("k000", "k001", "k002")


SAMPLES = st.lists(
    st.tuples(
        st.sampled_from(["", "", "a", "b", "c"]), st.sampled_from(["", "x", "y"]), st.sampled_from(list("012345"))
    ),
    min_size=2,
    max_size=25,
)


@given(samples=SAMPLES, key=st.text(max_size=4))
@settings(max_examples=60, deadline=None)
def test_never_leaks(make_manifest: Callable[[list[Sample]], Manifest], samples: list[Sample], key: str) -> None:
    manifest = make_manifest(samples)
    try:
        split = split_by_identity(manifest, eval_fraction=0.3, key=key)
    except ShardError as error:
        assert "identities" in str(error)
        return
    report = leakage_report(manifest, train_ids=split.train_ids, eval_ids=split.eval_ids)
    assert report.disjoint and report.num_train + report.num_eval == len(samples)


def test_the_report_sees_leaks(make_manifest: Callable[[list[Sample]], Manifest], tmp_path: Path) -> None:
    manifest = make_manifest([("a", "x", "v0"), ("a", "x", "v1"), ("", "y", "v1"), ("", "y", "v2")])
    report = leakage_report(manifest, train_ids=["k000", "k002"], eval_ids=["k000", "k001", "k003"])
    assert not report.disjoint
    assert report.shared_samples == ("k000",) and report.shared_identities == ("a",)
    assert report.shared_videos == ("v0", "v1") and report.shared_channels == ("y",)
    report.save(tmp_path / "leakage.json")
    saved = decode_json((tmp_path / "leakage.json").read_bytes())
    assert isinstance(saved, dict) and saved["disjoint"] is False and saved["shared_channels"] == ["y"]


def test_clusters_and_duplicates_hold_samples_together(tmp_path: Path) -> None:
    def row(key: str, cluster: str, group: str) -> ManifestRow:
        source = SourceVideo(uri="", source_id=key)
        return ManifestRow(
            key=key, status="accepted", stage="pack", source=source, video_digest=f"v{key}",
            identity_cluster=cluster, duplicate_group=group,
        )  # fmt: skip

    rows = [row("a", "p1", ""), row("b", "p1", "d1"), row("c", "", "d1"), row("d", "p2", ""), row("e", "", "")]
    manifest = write_manifest(tmp_path / "m.parquet", rows)
    for number in range(8):
        split = split_by_identity(manifest, num_eval=1, key=str(number))
        assert split.num_train_groups == 2
        assert len({"a", "b", "c"} & set(split.eval_ids)) in (0, 3)
    report = leakage_report(manifest, train_ids=["a", "c", "d"], eval_ids=["b", "e"])
    assert report.shared_clusters == ("p1",) and report.shared_duplicates == ("d1",) and not report.disjoint
    report.save(tmp_path / "leakage.json")
    saved = decode_json((tmp_path / "leakage.json").read_bytes())
    assert isinstance(saved, dict) and saved["shared_clusters"] == ["p1"] and saved["shared_duplicates"] == ["d1"]


def test_impossible_requests(make_manifest: Callable[[list[Sample]], Manifest]) -> None:
    manifest = make_manifest([("a", "", "v0"), ("a", "", "v1")])
    with pytest.raises(ShardError, match="1 identities"):
        split_by_identity(manifest, num_eval=1, key="k")
    with pytest.raises(ShardError, match="either"):
        split_by_identity(manifest, key="k")
