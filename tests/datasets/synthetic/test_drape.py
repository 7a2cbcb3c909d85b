"""Clothes stay outside of bodies that bend, and what is clear of the body stays where skinning puts it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.synthetic.drape import hanging
from lhmforge.datasets.synthetic.person import Person, make_person
from lhmforge.datasets.synthetic.wardrobe import load_shells


@pytest.fixture(scope="module")
def skirted() -> Person:
    body = BodyModel.load(free_body_path())
    people = (make_person(body, np.random.default_rng([55, seed])) for seed in range(40))
    return next(p for p in people if any(garment.name == "skirt" for garment in p.garments))


def striding(person: Person) -> BodyParams:
    pose = np.zeros((1, 21, 3), np.float32)
    pose[0, joint("left_hip") - 1, 0], pose[0, joint("right_hip") - 1, 0] = -1.2, 0.5
    pose[0, joint("left_knee") - 1, 0] = 0.9
    return replace(BodyParams.rest(1), betas=person.betas, body_pose=pose)


def buried(person: Person, vertices: np.ndarray) -> float:
    """Share of the skirt's vertices that lie below the body's surface."""
    body = person.body
    piece = next(d for d in person.draped if d.pool is not None)
    skin = vertices[: body.num_vertices]
    corner = skin[body.faces.numpy()]
    normals = np.zeros_like(skin)
    for k in range(3):
        np.add.at(normals, body.faces.numpy()[:, k], np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]))
    cloth = vertices[piece.first : piece.first + len(piece.clearance_m)]
    nearest = piece.pool[cKDTree(skin[piece.pool]).query(cloth)[1]]
    return float((((cloth - skin[nearest]) * normals[nearest]).sum(1) < 0).mean())


def test_thighs_stay_below_a_skirt(skirted: Person) -> None:
    params = striding(skirted)
    before = buried(skirted, replace(skirted, draped=()).pose(params)[0])
    after = buried(skirted, skirted.pose(params)[0])
    assert before > 0.02 and after < 0.25 * before


def test_the_body_itself_and_clear_cloth_are_not_moved(skirted: Person) -> None:
    params = striding(skirted)
    count = skirted.body.num_vertices
    free, draped = replace(skirted, draped=()).pose(params)[0], skirted.pose(params)[0]
    np.testing.assert_array_equal(free[:count], draped[:count])
    rest = replace(BodyParams.rest(1), betas=skirted.betas)
    moved = np.linalg.norm(skirted.pose(rest)[0] - replace(skirted, draped=()).pose(rest)[0], axis=1)
    assert np.median(moved[count:]) < 0.002 and moved.max() < 0.03


def test_neighbours_follow_a_push() -> None:
    faces = np.array([[i, i + 1, i + 2] for i in range(8)], np.int32)
    body = np.array([[0, 0, 0], [9, 0, 0]], np.float32)
    cloth = np.stack([np.linspace(0, 0.9, 10), np.full(10, 0.001), np.zeros(10)], axis=1).astype(np.float32)
    cloth[1:, 1] = 1.0  # only the first is too near
    piece = hanging(2, 10, faces, np.array([0]), clearance_m=0.05)
    vertices = np.concatenate([body, cloth])
    piece.settle(vertices, np.tile(np.array([[0, 1, 0]], np.float32), (2, 1)))
    lifted = vertices[2:, 1] - cloth[:, 1]
    np.testing.assert_allclose(lifted[0], 0.049, atol=1e-6)
    assert 0 < lifted[4] < lifted[1] < lifted[0]


def test_a_finer_skirt_is_closed_as_the_coarse_one_was() -> None:
    quads = load_shells().skirt
    edges = np.sort(np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1)
    counts = np.unique(edges, axis=0, return_counts=True)[1]
    assert counts.max() == 2 and (counts == 1).mean() < 0.05  # only hem and waist are open
