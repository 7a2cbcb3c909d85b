"""Perceptual hashes of pictures: 64 bits that change little under re-encoding, resizing and small crops.

The picture is reduced to 32 x 32 grey values; each bit says whether one of the 64 lowest frequencies of its cosine
transform (the mean left out) lies above their median. Zauner, "Implementation and Benchmarking of Perceptual Image
Hash Functions" (2010), section 3.2, with 64 coefficients by frequency in place of an 8 x 8 block.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8, UInt64

_SIDE = 32
_NUM_BITS = 64


def _lowest_frequencies() -> np.ndarray:
    """Flat indices of the 64 lowest frequencies after the mean, by the sum of both axes' frequencies."""
    rows, columns = np.divmod(np.arange(_SIDE * _SIDE), _SIDE)
    return np.lexsort((rows, rows + columns))[1 : _NUM_BITS + 1]


_FREQUENCIES = _lowest_frequencies()


def frame_hash(picture: UInt8[np.ndarray, "H W 3"]) -> int:
    """The hash of an RGB picture of any size, as a number below 2**64."""
    small = cv2.resize(np.ascontiguousarray(picture), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    found = cv2.dct(grey).ravel()[_FREQUENCIES]
    bits = np.packbits(found > np.median(found))
    return int.from_bytes(bits.tobytes(), "big")


def bit_distances(a: UInt64[np.ndarray, " N"], b: UInt64[np.ndarray, " M"]) -> UInt8[np.ndarray, "N M"]:
    """Number of differing bits of all pairs, 0..64."""
    return np.asarray(np.bitwise_count(a[:, None] ^ b[None]), np.uint8)
