"""Photos of every kind become upright 8-bit RGB on white; what is no photo is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lhmforge.datasets.errors import PhotoError
from lhmforge.jobs.photo import MAX_SIDE_PX, read_photo

RED, WHITE = (200, 30, 40), (255, 255, 255)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (200, 100), WHITE)
    picture.paste(RED, (0, 0, 100, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # show turned by 90 degrees clockwise
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_photo(tmp_path / "a.jpg").image
    assert image.shape == (200, 100, 3)
    assert np.abs(image[20, 50].astype(int) - RED).max() < 12 and image[180, 50].min() > 240


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 100 * 100).reshape(100, 100).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read_photo(tmp_path / "a.png").image
    np.testing.assert_allclose(image[..., 0], values / 257.0, atol=1)


def test_cmyk_and_palette_become_rgb(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100), RED).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    Image.new("RGB", (100, 100), RED).convert("P").save(tmp_path / "b.png")
    for name in ("a.jpg", "b.png"):
        image = read_photo(tmp_path / name).image
        assert image.shape == (100, 100, 3) and np.abs(image[50, 50].astype(int) - RED).max() < 40


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    picture.paste((*RED, 255), (0, 0, 50, 100))
    picture.save(tmp_path / "a.png")
    image = read_photo(tmp_path / "a.png").image
    assert tuple(image[50, 80]) == WHITE and tuple(image[50, 20]) == RED


def test_huge_photos_are_shrunk(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 1000), RED).save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png").image.shape == (MAX_SIDE_PX // 4, MAX_SIDE_PX, 3)


def test_what_is_no_photo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    Image.new("RGB", (20, 20)).save(tmp_path / "tiny.png")
    Image.effect_noise((300, 300), 50).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    words = {"absent.jpg": "no such", "text.jpg": "not an image", "tiny.png": "20 x 20", "torn.png": "decoded"}
    for name, word in words.items():
        with pytest.raises(PhotoError, match=word):
            read_photo(tmp_path / name)
