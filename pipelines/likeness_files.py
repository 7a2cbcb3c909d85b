"""Vectors of faces and clothes on disk: one npz per work unit below `likeness/`, and nowhere else.

They are biometric data. The folder may be left out of a copy or deleted: shards and manifest do not need it, the
identity clusters stay in the manifest, and only a run that is to cluster again makes it anew. A recipe whose
`pack.face` is null never writes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lhmforge.datasets import storage
from lhmforge.datasets.codecs import decode_npz, encode_npz
from lhmforge.datasets.errors import ShardError
from lhmforge.datasets.records import Likeness

LIKENESS_FOLDER = "likeness"
_VERSION = 1


def likeness_place(root: str, unit: str) -> str:
    """Where the vectors of a unit lie."""
    return storage.join_uri(root, LIKENESS_FOLDER, f"{unit}.npz")


def write_likenesses(place: str, likenesses: Mapping[str, Likeness]) -> str:
    """Publishes the vectors of samples by key and returns the file's sha256; none are no file and an empty text."""
    if not likenesses:
        storage.remove(place)
        return ""
    keys = sorted(likenesses)
    arrays: dict[str, np.ndarray] = {
        "version": np.array([_VERSION], np.int64),
        "keys": np.frombuffer("\n".join(keys).encode(), np.uint8),
        "faces": np.stack([likenesses[key].face for key in keys]).astype(np.float16),
        "num_faces": np.array([likenesses[key].num_faces for key in keys], np.int64),
        "bodies": np.stack([likenesses[key].body for key in keys]).astype(np.float16),
    }
    return storage.publish(place, (encode_npz(arrays),)).sha256


def read_likenesses(place: str) -> dict[str, Likeness]:
    """Sample key -> vectors; empty when the file was deleted; raises `ShardError` when it is damaged."""
    if not storage.exists(place):
        return {}
    arrays = decode_npz(storage.read_bytes(place), what=place)
    if "version" not in arrays or arrays["version"].tolist() != [_VERSION]:
        raise ShardError(f"{place} does not hold vectors of version {_VERSION}; delete it and curate again")
    keys = arrays["keys"].tobytes().decode().split("\n")
    columns = zip(keys, arrays["faces"], arrays["num_faces"], arrays["bodies"], strict=True)
    return {
        key: Likeness(face=face.astype(np.float32), num_faces=int(count), body=body.astype(np.float32))
        for key, face, count, body in columns
    }
