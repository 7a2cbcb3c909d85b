"""Bytes on disk: npz, JSON, JPEG and PNG whose bytes depend on the content alone, and readers that refuse surprises.

An npz is a plain zip of npy files in name order with a fixed date and no compression (deflate differs between zlib
builds), never a pickle. JSON has sorted keys, no spaces, and no NaN. Images are 8 bits per channel, sRGB.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from lhmforge.datasets.errors import ShardError

if TYPE_CHECKING:
    JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
else:
    JsonValue = object  # run-time type checkers cannot follow a recursive alias

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold
_NUMERIC_KINDS = "biuf"
_JPEG_FLAGS = (cv2.IMWRITE_JPEG_OPTIMIZE, 0, cv2.IMWRITE_JPEG_PROGRESSIVE, 0)


def encode_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An uncompressed npz of boolean, integer or float arrays; the order of `arrays` does not matter."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            assert array.dtype.kind in _NUMERIC_KINDS, f"array {name!r} has dtype {array.dtype}, which is not numeric"
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=_ZIP_DATE)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def decode_npz(data: bytes, *, what: str = "npz") -> dict[str, np.ndarray]:
    """Name -> array; raises `ShardError` naming `what` for anything but an npz of numeric arrays."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ShardError(f"{what} is not a readable npz of plain arrays: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in _NUMERIC_KINDS:
            raise ShardError(f"{what}: array {name!r} has dtype {array.dtype}; expected booleans, integers or floats")
    return arrays


def encode_json(value: JsonValue) -> bytes:
    """UTF-8 JSON with sorted keys and a final newline; a float that is not finite becomes null."""
    text = json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def decode_json(data: bytes, *, what: str = "JSON") -> JsonValue:
    """The value; raises `ShardError` naming `what` for anything that is not UTF-8 JSON."""
    try:
        value: JsonValue = json.loads(data.decode())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ShardError(f"{what} is not readable JSON: {error}") from error
    return value


def encode_jpeg(image: UInt8[np.ndarray, "H W 3"], *, quality: int = 92) -> bytes:
    """Baseline JPEG of an RGB image, chroma at full resolution because mattes cut along colour edges."""
    _check_pixels(image, channels=3)
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *_JPEG_FLAGS, *sampling]
    written, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert written, f"OpenCV could not encode a JPEG of shape {image.shape}"
    return bytes(data)


def encode_png(image: UInt8[np.ndarray, "H W"]) -> bytes:
    """8-bit grey PNG."""
    _check_pixels(image, channels=0)
    options = [cv2.IMWRITE_PNG_COMPRESSION, 4, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT]
    written, data = cv2.imencode(".png", image, options)
    assert written, f"OpenCV could not encode a PNG of shape {image.shape}"
    return bytes(data)


def decode_jpeg(data: bytes, *, what: str = "frame") -> UInt8[np.ndarray, "H W 3"]:
    """RGB pixels; raises `ShardError` naming `what` unless the bytes are an 8-bit RGB JPEG."""
    _check_header(data, what=what, container="JPEG", mode="RGB")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ShardError(f"{what}: the JPEG data is damaged")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def decode_png(data: bytes, *, what: str = "alpha") -> UInt8[np.ndarray, "H W"]:
    """Grey pixels; raises `ShardError` naming `what` unless the bytes are an 8-bit grey PNG."""
    _check_header(data, what=what, container="PNG", mode="L")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise ShardError(f"{what}: the PNG data is damaged or not 8-bit grey")
    return np.asarray(pixels)


def _finite(value: JsonValue) -> JsonValue:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value


def _check_pixels(image: np.ndarray, *, channels: int) -> None:
    shape_fits = image.ndim == 2 if channels == 0 else image.ndim == 3 and image.shape[2] == channels
    assert image.dtype == np.uint8 and shape_fits and image.size > 0, (
        f"expected 8-bit pixels with {channels or 1} channel(s), got {image.dtype} of shape {image.shape}"
    )


def _check_header(data: bytes, *, what: str, container: str, mode: str) -> None:
    try:
        with Image.open(io.BytesIO(data), formats=(container,)) as image:
            found = image.mode
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ShardError(f"{what} is not a readable {container}: {error}") from error
    if found != mode:
        raise ShardError(f"{what}: pixel mode is {found}, expected 8-bit {mode}")
