"""The .ply round trip, its standard layout, and files that are something else."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from lhmforge.datasets.errors import ShardError
from lhmforge.lhm_model.ply import GaussianCloud, read_ply, write_ply


def cloud(count: int = 50) -> GaussianCloud:
    rng = np.random.default_rng(0)
    return GaussianCloud(
        means=rng.normal(size=(count, 3)).astype(np.float32),
        rotations=rng.normal(size=(count, 4)).astype(np.float32),
        scales=np.exp(rng.normal(-5, 1, (count, 3))).astype(np.float32),
        opacities=rng.uniform(0.01, 0.99, count).astype(np.float32),
        colours=rng.uniform(0, 1, (count, 3)).astype(np.float32),
    )


def test_round_trip(tmp_path: Path) -> None:
    original = cloud()
    write_ply(tmp_path / "a.ply", original)
    read = read_ply(tmp_path / "a.ply")
    for field in fields(GaussianCloud):
        np.testing.assert_allclose(getattr(read, field.name), getattr(original, field.name), rtol=1e-4, atol=1e-6)
    write_ply(tmp_path / "b.ply", original)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()


def test_layout_is_the_one_that_viewers_expect(tmp_path: Path) -> None:
    original = cloud(3)
    write_ply(tmp_path / "a.ply", original)
    header, _, data = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 3"]
    names = [line.split()[-1] for line in lines if line.startswith("property float")]
    assert names[:6] == ["x", "y", "z", "nx", "ny", "nz"]
    assert names[6:10] == ["f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    table = np.frombuffer(data, "<f4").reshape(3, len(names))
    np.testing.assert_allclose(table[:, 6:9] * 0.28209479177387814 + 0.5, original.colours, atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-table[:, 9])), original.opacities, rtol=1e-5)
    np.testing.assert_allclose(np.exp(table[:, 10:13]), original.scales, rtol=1e-4)
    assert (table[:, 3:6] == 0).all()


def test_extremes_stay_finite(tmp_path: Path) -> None:
    hard = cloud(2)
    hard.opacities[:], hard.scales[:] = [0.0, 1.0], 0.0
    write_ply(tmp_path / "a.ply", hard)
    read = read_ply(tmp_path / "a.ply")
    assert np.isfinite(read.scales).all()
    np.testing.assert_allclose(read.opacities, [0, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a ply", "not a .ply"),
        (b"ply\nformat ascii 1.0\nend_header\n", "ascii"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nend_header\n1234", "f_dc_0"),
        (b"ply\nformat binary_little_endian 1.0\nelement face 1\nend_header\n", "face"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty uchar red\nend_header\n", "uchar"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(ShardError, match=words):
        read_ply(tmp_path / "a.ply")


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", cloud())
    (tmp_path / "b.ply").write_bytes((tmp_path / "a.ply").read_bytes()[:-7])
    with pytest.raises(ShardError, match="torn"):
        read_ply(tmp_path / "b.ply")
    with pytest.raises(ShardError, match="no such"):
        read_ply(tmp_path / "c.ply")
