"""Shape components from sampled adults: a principal component analysis done in the space of blendshape weights.

The population is our choice (adults of all MakeHuman phenotypes, heights with about 7 cm deviation within a sex), not
a scan study. Betas have unit variance, as in SMPL-X.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from lhmforge.datasets.body.free import makehuman

_SLIDER_SIGMA = {"breast": 0.15, "head": 0.25, "torso": 0.25, "arms": 0.25, "legs": 0.25, "hip": 0.25}
_SLIDER_SIGMA |= {"stomach": 0.25, "neck": 0.25}

Phenotype = dict[str, Float64[np.ndarray, " N"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeSpace:
    """`mean` and `components` (one standard deviation each) are weights over the given blendshapes."""

    mean: Float64[np.ndarray, " K"]
    components: Float64[np.ndarray, "C K"]
    variance: Float64[np.ndarray, " C"]


def mean_phenotype() -> Phenotype:
    """The adult that the rest pose is found on."""
    values = {"gender": 0.5, "age": 0.72, "muscle": 0.5, "weight": 0.48, "height": 0.37, "proportions": 0.6}
    values |= {"cup": 0.45, "firmness": 0.5} | dict.fromkeys(makehuman.ETHNICITIES, 1 / 3)
    return {name: np.array([value]) for name, value in values.items()}


def sample_phenotypes(count: int, rng: np.random.Generator) -> Phenotype:
    """Random adults."""
    male = rng.random(count) < 0.5
    gender = np.where(male, rng.normal(0.12, 0.12, count), rng.normal(0.88, 0.12, count))
    mixture = rng.dirichlet([1, 1, 1], count)
    spread = {"muscle": (0.5, 0.18), "weight": (0.5, 0.2), "height": (0.37, 0.062), "proportions": (0.6, 0.2)}
    spread |= {"cup": (0.45, 0.2), "firmness": (0.5, 0.2)}
    phenotype = {name: np.clip(rng.normal(*parameters, count), 0, 1) for name, parameters in spread.items()}
    phenotype |= {"gender": np.clip(gender, 0, 1), "age": np.clip(rng.normal(0.74, 0.1, count), 0.58, 1)}
    return phenotype | {name: mixture[:, k] for k, name in enumerate(makehuman.ETHNICITIES)}


def macro_weights(keys: tuple[tuple[str, ...], ...], phenotype: Phenotype) -> Float64[np.ndarray, "N K"]:
    """Weight of every macro shape: the product of its factors, each a hat function on equidistant anchors."""
    factors: dict[str, np.ndarray] = {name: phenotype[name] for name in makehuman.ETHNICITIES}
    scales = {"gender": makehuman.GENDERS, "age": makehuman.AGES, "muscle": makehuman.MUSCLES}
    scales |= {"weight": makehuman.WEIGHTS, "height": makehuman.HEIGHTS, "proportions": makehuman.PROPORTIONS}
    scales |= {"cup": makehuman.CUPS, "firmness": makehuman.FIRMNESS}
    for name, anchors in scales.items():
        position = np.clip(phenotype[name], 0, 1) * (len(anchors) - 1)
        for k, anchor in enumerate(anchors):
            factors[anchor] = np.clip(1 - np.abs(position - k), 0, 1)
    return np.stack([np.prod([factors[f] for f in key], axis=0) for key in keys], axis=1)


def sample_sliders(
    keys: tuple[tuple[str, ...], ...], count: int, rng: np.random.Generator
) -> Float64[np.ndarray, "N K"]:
    """Random local sliders; opposite shapes never act together."""
    weights = np.zeros((count, len(keys)))
    for pair in range(0, len(keys), 2):
        value = rng.normal(0, _SLIDER_SIGMA.get(keys[pair][0], 0.2), count)
        weights[:, pair], weights[:, pair + 1] = np.clip(value, 0, 1), np.clip(-value, 0, 1)
    return weights


def principal_shapes(
    weights: Float64[np.ndarray, "N K"],
    displacements: Float32[np.ndarray, "K V 3"],
    vertex_area: Float64[np.ndarray, " V"],
    *,
    num_components: int,
) -> ShapeSpace:
    """Principal components of the sampled surfaces, area-weighted, without forming the surfaces.

    With displacements D (K shapes) and weights of covariance S, the surface covariance D'SD has the same spectrum as
    G^(1/2) S G^(1/2) for the Gram matrix G = DD'.
    """
    scaled = (displacements * np.sqrt(vertex_area)[None, :, None].astype(np.float32)).reshape(len(displacements), -1)
    gram = (scaled @ scaled.T).astype(np.float64)
    centred = weights - weights.mean(0)
    covariance = centred.T @ centred / (len(weights) - 1)
    values, vectors = np.linalg.eigh(gram)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    variance, directions = np.linalg.eigh(root @ covariance @ root)
    order = np.argsort(-variance)[:num_components]
    variance, directions = variance[order], directions[:, order]
    components = (covariance @ root @ directions / np.sqrt(variance)).T
    return ShapeSpace(mean=weights.mean(0), components=components, variance=variance)


def vertex_areas(vertices: Float64[np.ndarray, "V 3"], faces: np.ndarray) -> Float64[np.ndarray, " V"]:
    """Share of the surface per vertex with a floor, so that dense regions (face, hands) still count."""
    corner = vertices[faces]
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1) / 6
    total = np.zeros(len(vertices))
    for k in range(3):
        np.add.at(total, faces[:, k], area)
    result: np.ndarray = total / total.sum() + 0.3 / len(vertices)
    return result
