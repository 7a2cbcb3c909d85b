"""The trial mixture: what it holds, that crossing people cross, and that the truth says who hides whom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import ConfigError, CorpusError, ShardError
from lhmforge.datasets.synthetic.clip import ClipConfig, SyntheticClip, render_clip
from lhmforge.datasets.synthetic.motion import MOTIONS
from lhmforge.datasets.synthetic.trial import trial_clips
from lhmforge.datasets.synthetic.truth import ClipTruth

CROSSING = ClipConfig(seed=9001, index=7, num_frames=7, width=96, height=72, num_persons=2, staging="crossing")


@pytest.fixture(scope="module")
def crossing() -> SyntheticClip:
    return render_clip(CROSSING, BodyModel.load(free_body_path()))


def test_twenty_clips_hold_every_kind() -> None:
    clips = trial_clips(9001, 20)
    assert clips == (*trial_clips(9001, 10), *trial_clips(9001, 20)[10:])
    singles = [clip for clip in clips if clip.num_persons == 1]
    assert len(singles) == 14 and {clip.motion_name for clip in singles} == set(MOTIONS)
    assert {clip.view for clip in singles} == {"front", "around", "behind"}
    assert sorted(clip.num_persons for clip in clips if clip.staging == "crossing") == [2, 2, 3, 3]
    with pytest.raises(CorpusError, match="at least one"):
        trial_clips(1, 0)


def test_people_who_cross_exchange_sides_and_hide_each_other(crossing: SyntheticClip) -> None:
    first, second = (person.boxes_px[:, [0, 2]].mean(1) for person in crossing.truth.persons)
    assert first[0] < second[0] and first[-1] > second[-1]
    hidden = np.minimum(*(person.visible_share for person in crossing.truth.persons))
    assert hidden.min() < 0.9 and hidden[[0, -1]].min() > 0.99
    for person in crossing.truth.persons:
        for n in range(CROSSING.num_frames):
            rows, columns = np.nonzero(person.alpha(n) > 127)
            x0, y0, x1, y1 = person.boxes_px[n]
            assert len(rows) == 0 or (
                columns.min() >= x0 and columns.max() < x1 and rows.min() >= y0 and rows.max() < y1
            )


def test_truth_survives_the_disk_and_older_files_say_what_to_do(crossing: SyntheticClip) -> None:
    again = ClipTruth.from_bytes(crossing.truth.to_bytes(), what="t")
    for person, other in zip(crossing.truth.persons, again.persons, strict=True):
        np.testing.assert_array_equal(person.boxes_px, other.boxes_px)
        np.testing.assert_array_equal(person.visible_share, other.visible_share)
    data = crossing.truth.to_bytes()
    from lhmforge.datasets.codecs import decode_npz, encode_npz

    old = encode_npz(decode_npz(data) | {"version": np.array([1])})
    with pytest.raises(ShardError, match="lhmforge synthesize"):
        ClipTruth.from_bytes(old, what="t")


@pytest.mark.parametrize(
    "changes", [{"num_persons": 1}, {"motion_file": "x.npz"}, {"staging": "waltz"}, {"view": "up"}]
)
def test_stagings_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="cross"):
        replace(CROSSING, **changes)
