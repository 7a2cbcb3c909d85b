"""What a camera does to a rendered picture: blur, exposure, white balance, vignette, sensor noise, JPEG."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from lhmforge.datasets.codecs import encode_jpeg


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoCamera:
    """One camera of a clip; gains multiply the colours, sizes are in px, noise in levels of 255."""

    blur_px: float
    gain: tuple[float, float, float]
    contrast: float
    vignette: float
    noise: float
    jpeg_quality: int


def random_photo_camera(rng: np.random.Generator) -> PhotoCamera:
    """Anything from a good camera to a cheap one."""
    exposure, warmth = rng.uniform(0.88, 1.1), rng.uniform(-0.05, 0.05)
    return PhotoCamera(
        blur_px=float(rng.uniform(0.25, 0.9)),
        gain=(exposure * (1 + warmth), exposure, exposure * (1 - warmth)),
        contrast=float(rng.uniform(0.92, 1.1)),
        vignette=float(rng.uniform(0, 0.25)),
        noise=float(rng.uniform(0.5, 4.0)),
        jpeg_quality=int(rng.integers(70, 96)),
    )


def photographed(
    image: UInt8[np.ndarray, "H W 3"], camera: PhotoCamera, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture as the camera stores it; the geometry is untouched, so the truth stays true."""
    height, width = image.shape[:2]
    picture = cv2.GaussianBlur(image.astype(np.float32), (0, 0), camera.blur_px)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) / 0.5
    picture = picture * np.array(camera.gain, np.float32) * (1 - camera.vignette * radius)[..., None]
    picture = (picture - 128) * camera.contrast + 128
    grain = rng.standard_normal((height, width, 3), dtype=np.float32)
    grain = 0.7 * cv2.GaussianBlur(grain, (0, 0), 0.6) + 0.5 * grain
    noisy = np.rint(np.clip(picture + camera.noise * grain, 0, 255)).astype(np.uint8)
    stored = cv2.imdecode(np.frombuffer(encode_jpeg(noisy, quality=camera.jpeg_quality), np.uint8), cv2.IMREAD_COLOR)
    assert stored is not None
    return np.asarray(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), np.uint8)
