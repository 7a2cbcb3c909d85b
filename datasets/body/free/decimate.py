"""Reduces a mesh to a given vertex count by collapsing vertices onto neighbours, left and right in step.

Quadric error metric (Garland and Heckbert 1997) with half-edge collapses: kept vertices are original ones, so
blendshapes, skinning weights and UVs carry over exactly.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

_Quadric = tuple[float, float, float, float, float, float, float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decimated:
    """`kept` are indices into the original vertices; `faces` still use original indices."""

    kept: Int64[np.ndarray, " N"]
    faces: Int64[np.ndarray, "F 3"]


def decimate(
    vertices: Float64[np.ndarray, "V 3"],
    faces: Int64[np.ndarray, "F 3"],
    *,
    num_vertices: int,
    importance: Float64[np.ndarray, " V"],
    mirror: Int64[np.ndarray, " V"],
) -> Decimated:
    """Collapses the cheapest vertices (quadric error x importance) until `num_vertices` are left.

    `mirror[v]` is the vertex on the other side (itself on the midline).
    """
    mesh = _CollapsibleMesh(vertices, faces, importance)
    heap: list[tuple[float, int, int, int, int]] = []
    for vertex in sorted(mesh.faces_of):
        mesh.propose(vertex, heap)
    while len(mesh.faces_of) > num_vertices:
        _, vertex, onto, stamp, onto_stamp = heapq.heappop(heap)
        if not mesh.is_current(vertex, stamp) or not mesh.is_current(onto, onto_stamp):
            continue
        twin, twin_onto = int(mirror[vertex]), int(mirror[onto])
        if twin == vertex:
            if twin_onto == onto and mesh.can_collapse(vertex, onto):  # the midline stays on the midline
                mesh.collapse(vertex, onto, heap)
            continue
        paired = twin in mesh.faces_of and twin_onto in mesh.faces_of and twin != onto
        room = len(mesh.faces_of) - num_vertices >= 2
        if not (paired and room and twin_onto in mesh.neighbours(twin) and mesh.can_collapse(vertex, onto)):
            continue
        mesh.collapse(vertex, onto, heap)
        if mesh.can_collapse(twin, twin_onto):
            mesh.collapse(twin, twin_onto, heap)
    kept = np.array(sorted(mesh.faces_of), np.int64)
    return Decimated(kept=kept, faces=np.array([f for f in mesh.faces if f is not None], np.int64))


class _CollapsibleMesh:
    """A triangle mesh with adjacency and one quadric per vertex, kept up to date over collapses."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, importance: np.ndarray) -> None:
        self.points = [tuple(map(float, p)) for p in vertices]
        self.faces: list[tuple[int, int, int] | None] = [(int(a), int(b), int(c)) for a, b, c in faces]
        self.importance = importance.tolist()
        self.faces_of: dict[int, set[int]] = {}
        edges: Counter[tuple[int, int]] = Counter()
        for index, face in enumerate(self.faces):
            assert face is not None
            for k in range(3):
                self.faces_of.setdefault(face[k], set()).add(index)
                edges[min(face[k], face[k - 1]), max(face[k], face[k - 1])] += 1
        self.border = {vertex for edge, count in edges.items() if count == 1 for vertex in edge}
        self.quadrics = _vertex_quadrics(vertices, faces)
        self.stamps: dict[int, int] = dict.fromkeys(self.faces_of, 0)

    def is_current(self, vertex: int, stamp: int) -> bool:
        return vertex in self.faces_of and self.stamps[vertex] == stamp

    def neighbours(self, vertex: int) -> set[int]:
        around: set[int] = set()
        for index in self.faces_of[vertex]:
            around.update(self._face(index))
        around.discard(vertex)
        return around

    def propose(self, vertex: int, heap: list[tuple[float, int, int, int, int]]) -> None:
        if vertex in self.border:
            return
        best = sorted((self._cost(vertex, other), other) for other in self.neighbours(vertex))[:3]
        for cost, other in best:
            heapq.heappush(heap, (cost, vertex, other, self.stamps[vertex], self.stamps[other]))

    def can_collapse(self, vertex: int, onto: int) -> bool:
        """Keeps the surface a manifold and no triangle flips or degenerates."""
        shared = [i for i in self.faces_of[vertex] if onto in self._face(i)]
        if len(shared) != 2 or len(self.neighbours(vertex) & self.neighbours(onto)) != 2:
            return False
        for index in self.faces_of[vertex]:
            face = self._face(index)
            if onto in face:
                continue
            before = [self.points[v] for v in face]
            after = [self.points[onto if v == vertex else v] for v in face]
            if not _keeps_facing(before, after):
                return False
        return True

    def collapse(self, vertex: int, onto: int, heap: list[tuple[float, int, int, int, int]]) -> None:
        touched = self.neighbours(vertex) | self.neighbours(onto) | {onto}
        for index in list(self.faces_of[vertex]):
            face = self._face(index)
            if onto in face:
                self.faces[index] = None
                for corner in face:
                    self.faces_of[corner].discard(index)
            else:
                a, b, c = (onto if v == vertex else v for v in face)
                self.faces[index] = (a, b, c)
                self.faces_of[onto].add(index)
        del self.faces_of[vertex]
        self.quadrics[onto] = _add(self.quadrics[onto], self.quadrics[vertex])
        alive = sorted(v for v in touched if v in self.faces_of)
        for v in alive:
            self.stamps[v] += 1
        for v in alive:
            self.propose(v, heap)

    def _face(self, index: int) -> tuple[int, int, int]:
        face = self.faces[index]
        assert face is not None
        return face

    def _cost(self, vertex: int, onto: int) -> float:
        error = _error(_add(self.quadrics[vertex], self.quadrics[onto]), self.points[onto])
        length = math.dist(self.points[vertex], self.points[onto])
        return float(self.importance[vertex]) * (error + 1e-7 * length)


def _vertex_quadrics(vertices: np.ndarray, faces: np.ndarray) -> dict[int, _Quadric]:
    corner = vertices[faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    area = np.linalg.norm(normal, axis=1, keepdims=True)
    normal = normal / np.maximum(area, 1e-15)
    plane = np.concatenate([normal, -(normal * corner[:, 0]).sum(1, keepdims=True)], axis=1)
    upper = np.triu_indices(4)
    per_face = plane[:, upper[0]] * plane[:, upper[1]] * area
    total = np.zeros((len(vertices), 10))
    for k in range(3):
        np.add.at(total, faces[:, k], per_face)
    used = np.unique(faces)
    rows = total[used].tolist()
    return {int(v): tuple(row) for v, row in zip(used, rows, strict=True)}


def _add(a: _Quadric, b: _Quadric) -> _Quadric:
    return (
        a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4],
        a[5] + b[5], a[6] + b[6], a[7] + b[7], a[8] + b[8], a[9] + b[9],
    )  # fmt: skip


def _error(q: _Quadric, point: tuple[float, ...]) -> float:
    x, y, z = point
    return (
        q[0] * x * x + q[4] * y * y + q[7] * z * z + q[9]
        + 2 * (q[1] * x * y + q[2] * x * z + q[3] * x + q[5] * y * z + q[6] * y + q[8] * z)
    )  # fmt: skip


def _keeps_facing(before: list[tuple[float, ...]], after: list[tuple[float, ...]]) -> bool:
    old, new = _normal(before), _normal(after)
    dot = sum(a * b for a, b in zip(old, new, strict=True))
    old_length, new_length = math.hypot(*old), math.hypot(*new)
    if new_length < 1e-12 or dot < 0.3 * old_length * new_length:
        return False
    longest = max(math.dist(after[k], after[k - 1]) for k in range(3))
    return new_length >= 0.02 * longest**2


def _normal(corners: list[tuple[float, ...]]) -> tuple[float, float, float]:
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = corners
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
