"""Records as bytes and back, without pickle: the form in which the stage cache and completion records keep them.

A tree of JSON values names the record types and holds the scalars; arrays and byte strings lie behind one another in a
blob that the tree points into by offset. Both are the members of one npz file. Same records, same bytes.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np

from lhmforge.datasets import manifest, records
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.errors import ShardError

CODEC_VERSION = 1
RECORD_TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        records.SourceVideo,
        records.Video,
        records.Clip,
        records.Track,
        records.TrackPath,
        records.AlphaCrop,
        records.MattedTrack,
        records.Keypoints,
        records.KeypointTrack,
        records.FittedTrack,
        records.TrackScores,
        records.GatedTrack,
        records.Reject,
        manifest.ManifestRow,
        BodyParams,
    )
}

Tree: TypeAlias = Any  # what json.dumps takes; run-time type checks cannot follow the recursion


def encode_records(values: Sequence[object], *, source: records.SourceVideo | None = None) -> bytes:
    """The npz bytes of a sequence of records; occurrences of `source` are left out and filled in when decoding."""
    encoder = _Encoder(source)
    tree = [encoder.encode(value) for value in values]
    head = json.dumps({"version": CODEC_VERSION, "records": tree}, sort_keys=True, separators=(",", ":"))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        tree=np.frombuffer(head.encode(), np.uint8),
        blob=np.frombuffer(bytes(encoder.blob), np.uint8),
    )
    return buffer.getvalue()


def decode_records(data: bytes, *, source: records.SourceVideo | None = None) -> list[Any]:
    """Inverse of `encode_records`; raises `ShardError` when the bytes are torn or of another version."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            head, blob = json.loads(arrays["tree"].tobytes()), arrays["blob"].tobytes()
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ShardError(f"these are no stored records: {error}") from error
    if head.get("version") != CODEC_VERSION:
        raise ShardError(f"stored records have version {head.get('version')}, this program reads {CODEC_VERSION}")
    decoder = _Decoder(blob, source)
    return [decoder.decode(tree) for tree in head["records"]]


class _Encoder:
    def __init__(self, source: records.SourceVideo | None) -> None:
        self.blob = bytearray()
        self._source = source

    def encode(self, value: object) -> Tree:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray):
            array = np.ascontiguousarray(value)
            assert array.dtype.kind in "biuf", f"arrays of {array.dtype} are not stored"
            return {"$array": [array.dtype.str, list(array.shape), self._append(array.tobytes())]}
        if isinstance(value, bytes):
            return {"$bytes": [len(value), self._append(value)]}
        if isinstance(value, tuple):
            return {"$tuple": [self.encode(item) for item in value]}
        if isinstance(value, Mapping):
            return {"$map": [[str(key), self.encode(item)] for key, item in sorted(value.items())]}
        if self._source is not None and value == self._source:
            return {"$source": None}
        name = type(value).__name__
        assert is_dataclass(value) and RECORD_TYPES.get(name) is type(value), f"{name} is no record type"
        return {"$type": name, "fields": {f.name: self.encode(getattr(value, f.name)) for f in fields(value)}}

    def _append(self, data: bytes) -> int:
        offset = len(self.blob)
        self.blob += data
        return offset


class _Decoder:
    def __init__(self, blob: bytes, source: records.SourceVideo | None) -> None:
        self._blob, self._source = blob, source

    def decode(self, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        if "$type" in tree:
            values = {name: self.decode(value) for name, value in tree["fields"].items()}
            return RECORD_TYPES[tree["$type"]](**values)
        if "$array" in tree:
            dtype, shape, offset = tree["$array"]
            count = math.prod(shape)
            if count == 0:
                return np.empty(shape, np.dtype(dtype))
            return np.frombuffer(self._blob, np.dtype(dtype), count, offset).reshape(shape).copy()
        if "$bytes" in tree:
            length, offset = tree["$bytes"]
            return self._blob[offset : offset + length]
        if "$tuple" in tree:
            return tuple(self.decode(item) for item in tree["$tuple"])
        if "$map" in tree:
            return {key: self.decode(item) for key, item in tree["$map"]}
        assert "$source" in tree and self._source is not None, "stored without its source, decoded without one"
        return self._source
