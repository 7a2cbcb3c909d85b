"""Gaussians as a standard 3DGS .ply: position, zero normal, f_dc, logit opacity, log scale, quaternion (w, x, y, z).

Layout and encodings are those of Kerbl et al. 2023, without view-dependent terms, so common viewers and editors read
the files. Binary, little endian, float32.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from lhmforge.datasets import storage
from lhmforge.datasets.errors import ShardError
from lhmforge.lhm_model.gaussians import PosedGaussians

_SH_DC = 0.5 / np.sqrt(np.pi)  # the constant spherical harmonic
_PROPERTIES = (
    "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip
_LEAST_OPACITY, _LEAST_SCALE_M = 1e-6, 1e-7  # keep logit and log finite


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianCloud:
    """`N` Gaussians in one coordinate frame, in the units of `gaussians`."""

    means: Float32[np.ndarray, "N 3"]
    rotations: Float32[np.ndarray, "N 4"]
    scales: Float32[np.ndarray, "N 3"]
    opacities: Float32[np.ndarray, " N"]
    colours: Float32[np.ndarray, "N 3"]

    @classmethod
    def of(cls, posed: PosedGaussians, *, person: int = 0, view: int = 0) -> GaussianCloud:
        """The Gaussians of one person in one pose."""

        def as_array(tensor: Tensor) -> np.ndarray:
            return np.asarray(tensor.detach().float().cpu().numpy())

        return cls(
            means=as_array(posed.means[person, view]),
            rotations=as_array(posed.rotations[person, view]),
            scales=as_array(posed.scales[person]),
            opacities=as_array(posed.opacities[person]),
            colours=as_array(posed.colours[person]),
        )


def write_ply(path: Path, cloud: GaussianCloud) -> None:
    """Publishes the file atomically; the same cloud gives the same bytes."""
    opacity = np.clip(cloud.opacities.astype(np.float64), _LEAST_OPACITY, 1 - _LEAST_OPACITY)
    columns = np.concatenate(
        (
            cloud.means,
            np.zeros_like(cloud.means),
            (cloud.colours - 0.5) / _SH_DC,
            np.log(opacity / (1 - opacity))[:, None],
            np.log(np.maximum(cloud.scales, _LEAST_SCALE_M)),
            cloud.rotations,
        ),
        axis=1,
    )
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(columns)}"]
    header += [f"property float {name}" for name in _PROPERTIES] + ["end_header", ""]
    storage.publish(path, ("\n".join(header).encode(), columns.astype("<f4").tobytes()))


def read_ply(path: Path) -> GaussianCloud:
    """Reads a 3DGS .ply with or without view-dependent terms; raises `ShardError` for anything else."""
    if not path.is_file():
        raise ShardError(f"{path}: no such .ply file")
    data = path.read_bytes()
    names, count, start = _read_header(data, path)
    missing = [name for name in _PROPERTIES if name not in names and not name.startswith("n")]
    if missing:
        raise ShardError(f"{path}: not a Gaussian .ply: properties {', '.join(missing)} are missing")
    if len(data) - start != 4 * count * len(names):
        raise ShardError(f"{path}: torn .ply: {len(data) - start} bytes of data, {4 * count * len(names)} announced")
    table = np.frombuffer(data, "<f4", offset=start).reshape(count, len(names))
    column = {name: table[:, index] for index, name in enumerate(names)}

    def stack(*wanted: str) -> np.ndarray:
        return np.stack([column[name] for name in wanted], axis=1).astype(np.float32)

    return GaussianCloud(
        means=stack("x", "y", "z"),
        rotations=stack("rot_0", "rot_1", "rot_2", "rot_3"),
        scales=np.exp(stack("scale_0", "scale_1", "scale_2")),
        opacities=(1 / (1 + np.exp(-column["opacity"].astype(np.float64)))).astype(np.float32),
        colours=(stack("f_dc_0", "f_dc_1", "f_dc_2") * _SH_DC + 0.5).astype(np.float32),
    )


def _read_header(data: bytes, path: Path) -> tuple[list[str], int, int]:
    """Property names, number of vertices, and where the data begins."""
    end = data.find(b"end_header\n")
    if not data.startswith(b"ply") or end < 0:
        raise ShardError(f"{path}: not a .ply file")
    names: list[str] = []
    count = -1
    for line in io.StringIO(data[:end].decode("ascii", "replace")).read().splitlines():
        match line.split():
            case ["format", kind, *_] if kind != "binary_little_endian":
                raise ShardError(f"{path}: format {kind} is not supported; write it as binary_little_endian")
            case ["element", "vertex", number]:
                count = int(number)
            case ["element", other, *_]:
                raise ShardError(f"{path}: holds {other} elements; a Gaussian .ply has vertices only")
            case ["property", "float" | "float32", name]:
                names.append(name)
            case ["property", kind, *_]:
                raise ShardError(f"{path}: property type {kind} is not supported; Gaussian files have float")
    if count < 0:
        raise ShardError(f"{path}: the header names no vertices")
    return names, count, end + len(b"end_header\n")
