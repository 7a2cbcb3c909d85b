"""The corpus: what is read, what is refused, and how it falls into units."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest

from lhmforge.datasets.errors import CorpusError
from lhmforge.datasets.records import SourceVideo
from lhmforge.pipelines.corpus import CorpusItem, group_units, read_corpus, survey


def _files(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def _item(source_id: str) -> CorpusItem:
    return CorpusItem(source=SourceVideo(uri=source_id, source_id=source_id), num_bytes=1, mtime_ns=1)


def test_a_folder_gives_its_videos(tmp_path: Path) -> None:
    _files(tmp_path, "b.mp4", "sub/a.MOV", "notes.txt", ".hidden.mp4", ".cache/x.mp4")
    sources = read_corpus([tmp_path])
    assert [source.source_id for source in sources] == ["b.mp4", "sub/a.MOV"]
    assert all(Path(source.uri).is_file() for source in sources)


def test_manifests_carry_facts_and_relative_paths(tmp_path: Path) -> None:
    _files(tmp_path, "v/b.mp4", "v/a.mp4")
    table = pd.DataFrame(
        {"path": ["v/b.mp4", "v/a.mp4"], "source_id": ["two", "one"], "licence": ["CC0", None], "channel": ["c", "d"]}
    )
    table.to_csv(tmp_path / "m.csv", index=False)
    table.to_parquet(tmp_path / "m.parquet")
    expected = SourceVideo(uri=str(tmp_path / "v/b.mp4"), source_id="two", licence="CC0", channel="c")
    for name in ("m.csv", "m.parquet"):
        sources = read_corpus([tmp_path / name])
        assert [source.source_id for source in sources] == ["one", "two"]
        assert sources[1] == expected and sources[0].licence == ""
    pd.DataFrame({"uri": ["s3://bucket/a.mp4", "/x/y.mp4"]}).to_csv(tmp_path / "u.csv", index=False)
    assert [source.uri for source in read_corpus([tmp_path / "u.csv"])] == ["/x/y.mp4", "s3://bucket/a.mp4"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"path": ["a.mp4"], "license": ["CC0"]}, "unknown column.*'license'.*licence"),
        ({"file": ["a.mp4"]}, "unknown column.*'file'"),
        ({"source_id": ["a"]}, "exactly one of path or uri"),
        ({"path": ["a.mp4"], "uri": ["b.mp4"]}, "exactly one of path or uri"),
        ({"path": ["a.mp4", ""]}, "row 1 has no path"),
        ({"path": ["a.mp4", "b.mp4"], "source_id": ["x", "x"]}, "source id 'x' is given 2 times"),
        ({"path": []}, "no rows"),
    ],
)
def test_unusable_manifests(tmp_path: Path, columns: dict[str, list[str]], words: str) -> None:
    pd.DataFrame(columns).to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(CorpusError, match=words):
        read_corpus([tmp_path / "m.csv"])


def test_unusable_inputs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.parquet").write_bytes(b"no parquet")
    for place, words in (("empty", "holds no video"), ("none.mp4", "does not exist"), ("m.parquet", "cannot be read")):
        with pytest.raises(CorpusError, match=words):
            read_corpus([tmp_path / place])
    _files(tmp_path, "a/x.mp4", "b/x.mp4")
    with pytest.raises(CorpusError, match=r"'x\.mp4' is given 2 times"):
        read_corpus([tmp_path / "a", tmp_path / "b"])
    assert len(read_corpus([tmp_path / "a", tmp_path / "a"])) == 1


def test_duplicates_name_the_first(tmp_path: Path) -> None:
    _files(tmp_path, "c.mp4", "d.mp4")
    for name in ("b.mp4", "a.mp4", "e.mp4"):
        (tmp_path / name).write_bytes(b"the same")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "zero1.mp4").touch()
    (tmp_path / "zero2.mp4").touch()
    items = {item.source.source_id: item for item in survey(read_corpus([tmp_path]))}
    copies = {name: item.duplicate_of for name, item in items.items() if item.duplicate_of}
    assert copies == {"b.mp4": "a.mp4", "e.mp4": "a.mp4"}
    assert items["gone.mp4"].num_bytes == -1


def test_units_hold_everything_once_and_depend_on_the_set_alone() -> None:
    items = [_item(f"video {index}") for index in range(500)]
    units = group_units(items, max_videos=8)
    assert units == group_units(reversed(items), max_videos=8)
    names = [item.source.source_id for unit in units for item in unit.items]
    assert sorted(names) == sorted(item.source.source_id for item in items)
    assert max(len(unit.items) for unit in units) <= 8 and len({unit.name for unit in units}) == len(units)
    larger = group_units([*items, _item("one more")], max_videos=8)
    assert len(set(units) - set(larger)) == 1, "a new video changes the one unit that it falls into"


def test_many_rows_take_seconds(tmp_path: Path) -> None:
    _files(tmp_path, "a.mp4")
    pd.DataFrame({"path": [f"{index}.mp4" for index in range(10_000)]}).to_csv(tmp_path / "m.csv", index=False)
    started = time.monotonic()
    units = group_units(survey(read_corpus([tmp_path / "m.csv"])), max_videos=8)
    assert sum(len(unit.items) for unit in units) == 10_000
    assert time.monotonic() - started < 30, "0.2 s on an idle core without run-time type checks"
