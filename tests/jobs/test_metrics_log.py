"""The metrics file: appending, rewinding after a restart, following."""

from __future__ import annotations

from pathlib import Path

import pytest

from lhmforge.jobs.metrics_log import Entry, Follower, MetricsLog, read_entries


def test_reopening_at_a_step_drops_later_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, from_step=0)
    for step in (1, 2, 3, 4):
        log.append(step, {"loss": float(step)})
    again = MetricsLog(path, from_step=2)
    again.append(3, {"loss": 30.0})
    assert [(e.step, e.values["loss"]) for e in read_entries(path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_half_written_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path, from_step=0).append(1, {"loss": 1.0})
    with path.open("a") as stream:
        stream.write('{"step": 2, "time_s"')
    assert [entry.step for entry in read_entries(path)] == [1]
    assert read_entries(tmp_path / "absent.jsonl") == []


def test_follower_handles_each_entry_once_even_after_a_rewind(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    seen: list[Entry] = []
    with Follower(path, seen.append):
        log = MetricsLog(path, from_step=0)
        log.append(1, {"loss": 1.0})
        log.append(2, {"loss": 2.0})
        log.append(2, {"eval_psnr": 20.0})
        rewound = MetricsLog(path, from_step=1)
        rewound.append(2, {"loss": 2.0})
        rewound.append(2, {"eval_psnr": 20.0})
        rewound.append(3, {"loss": 3.0})
    marks = [(entry.step, *entry.values) for entry in seen]
    assert sorted(marks) == [(1, "loss"), (2, "eval_psnr"), (2, "loss"), (3, "loss")]


def test_an_error_while_following_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    def broken(entry: Entry) -> None:
        raise RuntimeError("store is gone")

    MetricsLog(path, from_step=0).append(1, {"loss": 1.0})
    with pytest.raises(RuntimeError, match="store is gone"), Follower(path, broken):
        pass
