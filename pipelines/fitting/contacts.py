"""Feet that stand: stretches of frames in which a foot's point stays at one place in the picture.

A single view hardly sees a body's depth, so a standing foot of a fit slides. The solver holds each point of such a
stretch to one unknown place (`FitState.anchors`). A camera that moves shows no such stretch, and nothing is held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from lhmforge.pipelines.fitting.landmarks import point_index
from lhmforge.pipelines.fitting.objective import Contacts, Observations

_FOOT_POINTS = tuple(point_index(f"{side}_{part}") for side in ("left", "right") for part in ("heel", "big_toe"))
_SEEN_WEIGHT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactConfig:
    """A point stands while it stays within `radius_m` of its mean place (at the body's depth) for `min_stay_s`."""

    sigma_m: float = 0.02  # how firmly a standing point is held; 0 holds none
    radius_m: float = 0.05
    min_stay_s: float = 0.2
    min_frames: int = 3


def find_contacts(observations: Observations, depth_m: Float64[np.ndarray, " N"], config: ContactConfig) -> Contacts:
    """The stays of heels and toes, found greedily from the first frame on; unseen points stand nowhere."""
    num_frames = len(observations.times_s)
    stays = np.full((num_frames, len(_FOOT_POINTS)), -1, np.int64)
    if config.sigma_m <= 0:
        return Contacts(points=np.zeros(0, np.int64), stays=stays[:, :0], sigma_m=1.0)
    metres = np.maximum(depth_m, 0.5) / observations.intrinsics[0, 0]
    count = 0
    for column, point in enumerate(_FOOT_POINTS):
        place = observations.points_px[:, point]
        seen = observations.weights_px[:, point] >= _SEEN_WEIGHT
        first = 0
        while first < num_frames:
            end = _end_of_stay(place, seen, metres, first, config.radius_m)
            duration = observations.times_s[max(end - 1, first)] - observations.times_s[first]
            if end - first >= config.min_frames and duration >= config.min_stay_s:
                stays[first:end, column] = count
                count += 1
                first = end
            else:
                first += 1
    return Contacts(points=np.array(_FOOT_POINTS), stays=stays, sigma_m=config.sigma_m)


def _end_of_stay(
    place: Float64[np.ndarray, "N 2"], seen: np.ndarray, metres: Float64[np.ndarray, " N"], first: int, radius_m: float
) -> int:
    """One past the last frame of the longest stay that begins at `first`; `first` itself where nothing is seen."""
    end = first
    while end < len(place) and seen[end]:
        members = place[first : end + 1]
        distance = np.linalg.norm(members - members.mean(0), axis=-1) * metres[first : end + 1]
        if distance.max() > radius_m:
            break
        end += 1
    return end
