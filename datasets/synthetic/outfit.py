"""Random outfits: which garments and hair a person wears, as pieces with textures, and what they hide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets.synthetic.fabric import fabric, hair_texture, plain_fabric
from lhmforge.datasets.synthetic.wardrobe import Piece, Region, Shells, cut, quad_centres

WAIST = -0.335  # height of the waistband on the rest body, metres (the shoulders are at 0.07, the hips at -0.44)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Garment:
    """A piece with its texture; `covers` is the part of the body below it (None: nothing is hidden)."""

    name: str
    piece: Piece
    texture: UInt8[np.ndarray, "T T 3"]
    covers: Region | None
    cover_margin_m: float = 0.02
    clearance_m: float = 0.006  # how far it stays off the body when that bends

    @property
    def mean_colour(self) -> Float32[np.ndarray, " 3"]:
        mean: np.ndarray = self.texture.reshape(-1, 3).mean(0) / 255
        return mean.astype(np.float32)


def random_outfit(
    shells: Shells, rng: np.random.Generator, hair_colour: Float32[np.ndarray, " 3"], *, has_hair: bool
) -> tuple[Garment, ...]:
    """Top, trousers, shorts or skirt, shoes, and hair; pieces of the same shell never overlap but at hems."""
    with_skirt = rng.random() < 0.3
    skirt_hem = float(rng.uniform(-0.98, -0.66))
    # Leggings start below the hem's reach: hidden cloth could only poke through the skirt.
    legs = _trousers(shells, rng, under_skirt=with_skirt, high=skirt_hem + 0.08 if with_skirt else WAIST)
    garments = [_top(shells, rng, tucked=with_skirt), legs, _shoes(shells, rng)]
    if with_skirt:
        garments.append(_skirt(shells, rng, skirt_hem))
    if has_hair and rng.random() < 0.75:
        garments.append(_hair(shells, rng, hair_colour))
    return tuple(garments)


def _top(shells: Shells, rng: np.random.Generator, *, tucked: bool) -> Garment:
    sleeve = float(rng.choice([0.21, 0.33, 0.33, 0.42, 0.655, 0.655]))
    hem = WAIST - 0.02 if tucked else float(rng.uniform(-0.50, -0.40))
    region = Region(
        low=hem, high=float(rng.uniform(0.1, 0.135)), reach=sleeve, neckline=float(rng.choice([0.0, 0.05, 0.09]))
    )
    loose = float(rng.uniform(0.004, 0.016))
    # Wider towards the hem, tight at the collar; a top over trousers must clear them.
    drop = np.clip((0.1 - shells.vertices[:, 1]) / 0.5, 0, 1)
    push = 0.006 + loose * drop + (0.0 if tucked else 0.006 * (shells.vertices[:, 1] < WAIST + 0.03))
    piece = cut(shells, shells.tights, region, push_m=push.astype(np.float32))
    return Garment(name="top", piece=piece, texture=fabric(rng), covers=region, clearance_m=0.012)


def _trousers(shells: Shells, rng: np.random.Generator, *, under_skirt: bool, high: float) -> Garment:
    ends = [-1.2, -1.2, -1.05] if under_skirt else [-1.225, -1.225, -1.225, -0.78, -0.70]
    region = Region(low=float(rng.choice(ends)), high=high, reach=0.35)
    loose = 0.0 if under_skirt else float(rng.uniform(0.0, 0.014))
    below_seat = np.clip((-0.55 - shells.vertices[:, 1]) / 0.3, 0, 1)
    push = (0.003 + loose * below_seat).astype(np.float32)
    piece = cut(shells, shells.tights, region, push_m=push)
    texture = fabric(rng) if rng.random() < 0.2 else plain_fabric(rng)
    return Garment(name="trousers", piece=piece, texture=texture, covers=region)


def _skirt(shells: Shells, rng: np.random.Generator, hem: float) -> Garment:
    piece = cut(shells, shells.skirt, Region(low=hem), push_m=0.006)
    region = Region(low=hem, high=WAIST + 0.05, reach=0.35)
    return Garment(name="skirt", piece=piece, texture=fabric(rng), covers=region, cover_margin_m=0.06, clearance_m=0.02)


def _shoes(shells: Shells, rng: np.random.Generator) -> Garment:
    region = Region(low=-2.0, high=float(rng.uniform(-1.235, -1.2)), reach=0.4)
    sole = np.clip((-1.27 - shells.vertices[:, 1]) / 0.05, 0, 1)
    push = (0.008 + 0.008 * sole).astype(np.float32)
    piece = cut(shells, shells.tights, region, push_m=push)
    texture = plain_fabric(rng, bright=(0.04, 0.9))
    return Garment(name="shoes", piece=piece, texture=texture, covers=region, cover_margin_m=0.0)


def _hair(shells: Shells, rng: np.random.Generator, colour: Float32[np.ndarray, " 3"]) -> Garment:
    length = float(rng.choice([0.27, 0.22, 0.14, 0.05, -0.08]))
    x, y, z = np.moveaxis(quad_centres(shells, shells.hair), -1, 0)
    fringe = float(rng.uniform(0.315, 0.335))
    face_free = (z < 0.105) | (y > fringe) | ((np.abs(x) > 0.08) & (z < 0.115))
    push = float(rng.uniform(0.002, 0.012))
    piece = cut(shells, shells.hair[face_free], Region(low=length), push_m=push, texture_scale=3.0)
    return Garment(name="hair", piece=piece, texture=hair_texture(rng, colour), covers=None)
