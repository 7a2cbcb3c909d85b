"""Numba kernels of the near-duplicate join: comparing neighbours in a sorted list of hashes, and aligning two samples.

Import this module only from inside a function: numba takes a second to import.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, no_type_check

import numba
import numpy as np

_WINDOW = 256  # neighbours that a hash is compared with: bounds the work where thousands of samples share a scene
_PREFIX_BITS = 16
# Of a single pair of frames; a little looser than the means that decide. Chance passes 1 of 200,000 such pairs that
# share a prefix; at 20 and 26 bits it was 1 of 80, and the proofs took minutes.
_MAX_FRAME_BITS = 14
_MAX_PERSON_BITS = 20
_BIN_S = 0.25
_MAX_BINS = 4096
_MIN_COMMON = 3


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine code for the bare function (run-time type checkers wrap it), cached where a folder is writable."""
    bare = inspect.unwrap(function)
    try:
        return numba.njit(cache=True, nogil=True)(bare)
    except RuntimeError:  # numba finds neither this folder nor the user's cache folder writable
        return numba.njit(nogil=True)(bare)


@_compiled
@no_type_check
def _count_bits(value):
    value = value - ((value >> np.uint64(1)) & np.uint64(0x5555555555555555))
    value = (value & np.uint64(0x3333333333333333)) + ((value >> np.uint64(2)) & np.uint64(0x3333333333333333))
    value = (value + (value >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((value * np.uint64(0x0101010101010101)) >> np.uint64(56))


@_compiled
@no_type_check
def neighbours(turned, frames, persons, owners, videos, begin, end, num_samples):
    """Codes first * num_samples + second of samples with a like frame, among rows begin..end and who follows them."""
    codes = np.empty(1024, np.int64)
    count = 0
    shift = np.uint64(64 - _PREFIX_BITS)
    for row in range(begin, end):
        last = -1
        for other in range(row + 1, min(row + 1 + _WINDOW, len(turned))):
            if (turned[row] >> shift) != (turned[other] >> shift):
                break
            if videos[row] == videos[other] or owners[other] == last:
                continue
            if _count_bits(frames[row] ^ frames[other]) > _MAX_FRAME_BITS:
                continue
            if _count_bits(persons[row] ^ persons[other]) > _MAX_PERSON_BITS:
                continue
            if count == len(codes):
                codes = np.concatenate((codes, np.empty(len(codes), np.int64)))
            low, high = min(owners[row], owners[other]), max(owners[row], owners[other])
            codes[count] = low * num_samples + high
            count += 1
            last = owners[other]
    return np.unique(codes[:count])


@_compiled
@no_type_check
def align(pairs, starts, times, frames, persons, min_overlap, found):
    """For each pair of samples the mean bits of frames and persons at the shift at which their sum is smallest."""
    sums = np.zeros((_MAX_BINS, 2), np.float64)
    counts = np.zeros(_MAX_BINS, np.int64)
    for index in range(len(pairs)):
        a0, a1 = starts[pairs[index, 0]], starts[pairs[index, 0] + 1]
        b0, b1 = starts[pairs[index, 1]], starts[pairs[index, 1] + 1]
        lowest = np.floor((times[b0] - times[a1 - 1]) / _BIN_S + 0.5)
        sums[:] = 0
        counts[:] = 0
        for i in range(a0, a1):
            for j in range(b0, b1):
                place = int(np.floor((times[j] - times[i]) / _BIN_S + 0.5) - lowest)
                if 0 <= place < _MAX_BINS:
                    sums[place, 0] += _count_bits(frames[i] ^ frames[j])
                    sums[place, 1] += _count_bits(persons[i] ^ persons[j])
                    counts[place] += 1
        shorter = min(a1 - a0, b1 - b0)
        needed = max(min(_MIN_COMMON, shorter), min_overlap * shorter)
        best = 1e9
        for place in range(_MAX_BINS):
            if counts[place] >= needed:
                total = (sums[place, 0] + sums[place, 1]) / counts[place]
                if total < best:
                    best = total
                    found[index, 0] = sums[place, 0] / counts[place]
                    found[index, 1] = sums[place, 1] / counts[place]
