"""Clusters join what mutual evidence joins, refuse chains and contradictions, and do not mind the order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lhmforge.datasets.records import Likeness
from lhmforge.pipelines import identity_clusters
from lhmforge.pipelines.identity_clusters import IdentityClusterConfig, Person, cluster_identities

CONFIG = IdentityClusterConfig(min_face=0.5, min_body=0.5)


def unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def person(
    key: str, face: np.ndarray, *, body: np.ndarray | None = None, video: str = "", identity: str = ""
) -> Person:
    likeness = Likeness(face=unit(face), num_faces=3, body=unit(np.ones(4) if body is None else body))
    return Person(key=key, video_digest=video or key, first_frame=0, end_frame=90, identity=identity, likeness=likeness)


def crowd(num_people: int, num_clips: int, noise: float) -> list[Person]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(num_people, 128))
    return [
        person(f"p{p:03d}_c{c}", unit(centres[p]) + noise * rng.normal(size=128) / np.sqrt(128))
        for p in range(num_people)
        for c in range(num_clips)
    ]


def test_people_are_found_again() -> None:
    people = crowd(30, 4, noise=0.6)
    found = cluster_identities(people, CONFIG)
    assert found == {p.key: f"{p.key[:4]}_c0" for p in people}
    assert cluster_identities(people[::-1], CONFIG) == found


def test_the_inverted_file_gives_what_the_exact_search_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    people = crowd(300, 4, noise=0.6)
    exact = cluster_identities(people, CONFIG)
    monkeypatch.setattr(identity_clusters, "_EXACT_UP_TO", 100)
    assert cluster_identities(people, CONFIG) == exact


def test_a_chain_of_look_alikes_does_not_grow() -> None:
    """Each next one is 50 degrees from the last: neighbours are alike (.64), the ends are not."""
    angles = np.deg2rad(50.0) * np.arange(6)
    people = [person(f"p{n}", np.array([np.cos(a), np.sin(a), 0.0])) for n, a in enumerate(angles)]
    found = cluster_identities(people, CONFIG)
    sizes = [list(found.values()).count(name) for name in set(found.values())]
    assert max(sizes) <= 2


def test_what_forbids_a_join() -> None:
    face = np.array([1.0, 0.0, 0.0])
    a = person("a", face)
    assert cluster_identities([a, person("b", face)], CONFIG) == {"a": "a", "b": "a"}
    assert cluster_identities([a, person("b", face, video="a")], CONFIG) == {}
    named = [replace(a, identity="Ann"), person("b", face, identity="Bea")]
    assert cluster_identities(named, CONFIG) == {}
    assert cluster_identities([replace(a, identity="Ann"), person("b", face)], CONFIG) == {"a": "a", "b": "a"}
    clothes = np.array([1.0, 0, 0, 0]), np.array([0, 1.0, 0, 0])
    assert cluster_identities([person("a", face, body=clothes[0]), person("b", face, body=clothes[1])], CONFIG) == {}


def test_who_never_showed_a_face_is_in_no_cluster() -> None:
    hidden = replace(person("b", np.ones(3)).likeness, face=np.full(3, np.nan, np.float32), num_faces=0)
    people = [person("a", np.ones(3)), replace(person("b", np.ones(3)), likeness=hidden), person("c", np.ones(3))]
    assert cluster_identities(people, CONFIG) == {"a": "a", "c": "a"}
