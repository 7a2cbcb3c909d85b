"""Bytes depend on the content alone, survive a round trip, and surprises are refused by name."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lhmforge.datasets import codecs
from lhmforge.datasets.errors import ShardError


def test_npz_bytes_do_not_depend_on_order_time_or_memory_layout() -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([True, False])
    first = codecs.encode_npz({"a": a, "b": b})
    assert first == codecs.encode_npz({"b": b, "a": np.asfortranarray(a)})
    arrays = codecs.decode_npz(first)
    assert arrays["a"].dtype == np.float32 and np.array_equal(arrays["a"], a) and np.array_equal(arrays["b"], b)


def test_npz_refuses_pickles_and_rubbish() -> None:
    with pytest.raises(AssertionError, match="not numeric"):
        codecs.encode_npz({"a": np.array([{}], dtype=object)})
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([{"x": 1}], dtype=object), allow_pickle=True)
    for data in (buffer.getvalue(), b"", b"PK\x03\x04 torn", codecs.encode_npz({"a": np.ones(50)})[:-60]):
        with pytest.raises(ShardError, match=r"body\.npz"):
            codecs.decode_npz(data, what="body.npz")


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_json_round_trip(value: object) -> None:
    assert codecs.decode_json(codecs.encode_json(value)) == value


def test_json_is_canonical_and_has_no_nan() -> None:
    assert codecs.encode_json({"b": float("nan"), "a": [1.5, float("inf")]}) == b'{"a":[1.5,null],"b":null}\n'
    with pytest.raises(ShardError, match=r"sample\.json"):
        codecs.decode_json(b"\xff{", what="sample.json")


def test_images_round_trip() -> None:
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (37, 53, 3), np.uint8), (0, 0), 3)
    grey = rng.integers(0, 256, (37, 53), np.uint8)
    jpeg = codecs.encode_jpeg(smooth)
    assert jpeg == codecs.encode_jpeg(smooth.copy())
    assert np.abs(codecs.decode_jpeg(jpeg).astype(int) - smooth).max() <= 6
    assert np.array_equal(codecs.decode_png(codecs.encode_png(grey)), grey)


def _saved(image: Image.Image, container: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container)
    return buffer.getvalue()


def test_image_surprises_are_refused() -> None:
    grey = Image.new("L", (8, 8))
    sixteen_bit = cv2.imencode(".png", np.zeros((8, 8), np.uint16))[1].tobytes()
    for data in (sixteen_bit, _saved(Image.new("RGB", (8, 8)), "PNG"), _saved(grey, "JPEG"), b"", b"\x89PNG rubbish"):
        with pytest.raises(ShardError, match="alpha_0000"):
            codecs.decode_png(data, what="alpha_0000")
    for data in (
        _saved(Image.new("CMYK", (8, 8)), "JPEG"),
        _saved(grey, "JPEG"),
        _saved(grey, "PNG"),
        b"",
        b"\xff\xd8\xff",
    ):
        with pytest.raises(ShardError, match="frame_0000"):
            codecs.decode_jpeg(data, what="frame_0000")


def test_a_png_with_a_torn_end_is_refused() -> None:
    data = codecs.encode_png(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    with pytest.raises(ShardError, match="damaged"):
        codecs.decode_png(data[: len(data) // 2])
