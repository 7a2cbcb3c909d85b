"""A user's textured scans or meshes (OBJ with MTL and texture, GLB, PLY with vertex colours) and their body parameters.

Beside `NAME.glb` lies `NAME.npz` with one frame of `BodyParams`, or one file holds the arrays `NAME.FIELD` of all
scans. Parameters and mesh share one frame: metres, y up, after the scan's own scale and up axis were applied. The mesh
is rendered as it stands; nothing is fitted and nothing is animated.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from scipy.spatial import cKDTree

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.errors import BodyError, ConfigError, ScanError
from lhmforge.datasets.synthetic.raster import Surface
from lhmforge.datasets.synthetic.scan_mesh import read_mesh

SUFFIXES = (".obj", ".glb", ".gltf", ".ply")
UP_AXES = ("y", "z")
_MAX_APART_M = 0.08  # median distance from the body to the scan's surface; loose clothes stay below
_UNITS = {"centimetres": 100.0, "millimetres": 1000.0, "inches": 39.37, "kilometres": 0.001}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanFile:
    """One scan on disk: mesh, npz with its parameters (`prefix` before each array's name), scale and up axis."""

    mesh: Path
    params: Path
    prefix: str = ""
    metres_per_unit: float = 1.0
    up: str = "y"

    @property
    def name(self) -> str:
        return self.mesh.stem

    def digest(self) -> str:
        """Of everything that decides how the scan looks and what its parameters are."""
        parts = [self.params, *_belonging(self.mesh)]
        content = hashlib.sha256(f"{self.prefix}\0{self.metres_per_unit}\0{self.up}".encode())
        for path in parts:
            content.update(hashlib.sha256(path.read_bytes()).digest())
        return content.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A scan on the floor: vertices in metres, y up, lowest at 0, and one frame of body parameters in that frame."""

    surface: Surface
    vertices: Float64[np.ndarray, "V 3"]
    body: BodyParams


def find_scans(
    folder: Path, *, poses: Path | None = None, metres_per_unit: float = 1.0, up: str = "y"
) -> list[ScanFile]:
    """The scans of a folder in the order of their names; raises `ScanError` when there are none or one lacks a body."""
    if metres_per_unit <= 0 or not np.isfinite(metres_per_unit):
        raise ConfigError(
            f"scan scale {metres_per_unit}: metres per unit of the file, for example 0.01 for centimetres"
        )
    if up not in UP_AXES:
        raise ConfigError(f"scan up axis {up!r}: choose one of {', '.join(UP_AXES)}")
    meshes = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not meshes:
        raise ScanError(f"{folder} holds no scan; expected files that end in {', '.join(SUFFIXES)}")
    names = [mesh.stem for mesh in meshes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ScanError(f"{folder}: several scans are named {', '.join(twice[:5])}; names must differ")
    return [
        ScanFile(
            mesh=mesh, params=poses or mesh.with_suffix(".npz"), prefix=f"{mesh.stem}." if poses else "",
            metres_per_unit=metres_per_unit, up=up,
        )
        for mesh in meshes
    ]  # fmt: skip


def load_scan(scan: ScanFile, body: BodyModel) -> Scan:
    """Reads a scan and its parameters and checks one against the other; raises `ScanError` that says what to change."""
    params = _read_params(scan, body)
    mesh = read_mesh(scan.mesh)
    vertices = mesh.vertices * scan.metres_per_unit
    if scan.up == "z":
        vertices = vertices[:, [0, 2, 1]] * (1, 1, -1)
    _check_fit(scan, vertices, body, params)
    lift = np.array([0, -vertices[:, 1].min(), 0])
    moved = replace(params, transl=(params.transl + lift).astype(np.float32))
    return Scan(surface=mesh.surface, vertices=vertices + lift, body=moved)


def _read_params(scan: ScanFile, body: BodyModel) -> BodyParams:
    if not scan.params.is_file():
        raise ScanError(
            f"{scan.mesh}: no body parameters at {scan.params}. A scan needs one frame of SMPL-X-style parameters of "
            f"the body file in use ({body.source}): an npz beside it with the arrays of BodyParams, or one npz for all "
            f"with arrays named {scan.name}.FIELD (--scan-poses)"
        )
    try:
        with np.load(scan.params, allow_pickle=False) as archive:
            arrays = {
                name.removeprefix(scan.prefix): archive[name] for name in archive.files if name.startswith(scan.prefix)
            }
        params = BodyParams.from_arrays(arrays)
    except (BodyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ScanError(f"{scan.mesh}: parameters in {scan.params}: {error}") from error
    if params.num_frames != 1:
        raise ScanError(f"{scan.mesh}: {scan.params} holds {params.num_frames} frames; a scan has exactly one pose")
    if len(params.betas) > body.num_betas or params.expression.shape[1] > body.num_expression:
        raise ScanError(
            f"{scan.mesh}: {len(params.betas)} betas and {params.expression.shape[1]} expression coefficients; "
            f"{body.source} has {body.num_betas} and {body.num_expression}"
        )
    return params


def _check_fit(scan: ScanFile, vertices: Float64[np.ndarray, "V 3"], body: BodyModel, params: BodyParams) -> None:
    posed = body.pose(params).vertices[0].numpy().astype(np.float64)
    apart = float(np.median(cKDTree(vertices).query(posed[::7])[0]))
    if apart <= _MAX_APART_M:
        return
    size, expected = np.ptp(vertices, axis=0), np.ptp(posed, axis=0)
    raise ScanError(
        f"{scan.mesh}: the body lies {apart:.2f} m (median) off the scan. The scan measures {_sides(size)} m, its body "
        f"{_sides(expected)} m. {_advice(scan, size, expected)}"
    )


def _advice(scan: ScanFile, size: np.ndarray, expected: np.ndarray) -> str:
    ratio = float(np.sort(size)[-1] / np.sort(expected)[-1])
    for unit, factor in _UNITS.items():
        if abs(ratio / factor - 1) < 0.2:
            return f"It seems to be in {unit}: try --scan-scale {scan.metres_per_unit / factor:g}"
    if 0.8 < ratio < 1.25 and int(size.argmax()) == 2 and int(expected.argmax()) == 1:
        return "It seems to stand along z: try --scan-up z"
    return "Give parameters in the scan's own frame (metres, y up), or --scan-scale and --scan-up for its frame"


def _sides(size: np.ndarray) -> str:
    return " x ".join(f"{side:.2f}" for side in size)


def _belonging(mesh: Path) -> Sequence[Path]:
    """The mesh file and what it may name beside it: material files and pictures of the folder."""
    if mesh.suffix.lower() not in (".obj", ".gltf"):
        return [mesh]
    named = {".mtl", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tga", ".tif", ".tiff", ".bin"}
    return [mesh, *sorted(path for path in mesh.parent.iterdir() if path.suffix.lower() in named)]
