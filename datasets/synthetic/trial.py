"""The mixture of clips that curation is measured on: all motions, views from all around, people who cross."""

from __future__ import annotations

from dataclasses import replace

from lhmforge.datasets.errors import CorpusError
from lhmforge.datasets.synthetic.clip import ClipConfig
from lhmforge.datasets.synthetic.motion import MOTIONS

_CROSSING_FRAMES = 60
_CROSSING_SIZE = (640, 480)
# One of ten clips each: three at the front, three from anywhere, one from behind, and three with several people.
_SINGLE_VIEWS = ("front", "around", "front", "around", "behind", "around", "front")
_GROUPS = ((2, "crossing"), (3, "crossing"), (2, ""))


def trial_clips(seed: int, count: int) -> tuple[ClipConfig, ...]:
    """The first `count` clips of the mixture, equal for equal seeds; ten clips hold every kind.

    Of ten clips, seven show one person (the motions in turn; three from the front, three from anywhere, one from
    behind) and three several: two and three who cross, two side by side. Raises `CorpusError` for a count below one.
    """
    if count < 1:
        raise CorpusError(f"{count} clips asked for; at least one is needed")
    return tuple(_clip(seed, index) for index in range(count))


def _clip(seed: int, index: int) -> ClipConfig:
    turn, place = divmod(index, 10)
    names = list(MOTIONS)
    base = ClipConfig(seed=seed, index=index)
    if place < len(_SINGLE_VIEWS):
        motion = names[(turn * len(_SINGLE_VIEWS) + place) % len(names)]
        return replace(base, motion=motion, view=_SINGLE_VIEWS[place])
    persons, staging = _GROUPS[place - len(_SINGLE_VIEWS)]
    if not staging:
        return replace(base, num_persons=persons, motion=names[turn % len(names)], width=640, height=480)
    width, height = _CROSSING_SIZE
    return replace(
        base, num_persons=persons, staging=staging, num_frames=_CROSSING_FRAMES, width=width, height=height,
        view=("front", "behind")[turn % 2],
    )  # fmt: skip
