"""Users' scans: OBJ, GLB and PLY read alike, colours where they belong, and every way in which one can be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.errors import ConfigError, ScanError
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.sample import parse_sample
from lhmforge.datasets.shards import ShardSample
from lhmforge.datasets.synthetic.multiview import MultiviewConfig, scan_sample
from lhmforge.datasets.synthetic.raster import rasterise
from lhmforge.datasets.synthetic.scan_mesh import read_mesh
from lhmforge.datasets.synthetic.scans import ScanFile, find_scans, load_scan
from lhmforge.datasets.synthetic.view_shards import synthesize_shards

VIEWS = MultiviewConfig(seed=1, num_views=3, width=64, height=96)
RED, BLUE = (220, 30, 20), (20, 40, 210)


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return BodyModel.load(free_body_path())


@pytest.fixture(scope="module")
def params() -> BodyParams:
    rest = BodyParams.rest(1)
    pose = rest.body_pose.copy()
    pose[0, 15, 2], pose[0, 16, 2] = -1.1, 1.1  # arms lowered
    return replace(rest, body_pose=pose, transl=np.array([[0.2, 1.0, -0.1]], np.float32))


def picture() -> Image.Image:
    """Upper half red, lower half blue, wider than tall."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16], pixels[16:] = RED, BLUE
    return Image.fromarray(pixels)


def textured(body: BodyModel, params: BodyParams) -> trimesh.Trimesh:
    """The posed body with v growing upwards: red head, blue feet."""
    vertices = body.pose(params).vertices[0].numpy().astype(np.float64)
    low, high = vertices.min(0), vertices.max(0)
    uv = ((vertices - low) / (high - low))[:, :2]
    material = trimesh.visual.material.SimpleMaterial(image=picture())
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return trimesh.Trimesh(vertices, body.faces.numpy(), visual=visual, process=False)


def coloured(body: BodyModel, params: BodyParams) -> trimesh.Trimesh:
    mesh = textured(body, params)
    upper = mesh.visual.uv[:, 1] > 0.5
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=np.where(upper[:, None], RED, BLUE).astype(np.uint8))
    return mesh


def write(folder: Path, kind: str, body: BodyModel, params: BodyParams, *, change=None) -> ScanFile:
    mesh = coloured(body, params) if kind == "ply" else textured(body, params)
    if change is not None:
        mesh.vertices = change(np.array(mesh.vertices))
    mesh.export(folder / f"anna.{kind}")
    np.savez(folder / "anna.npz", **params.to_arrays())
    return find_scans(folder)[0]


@pytest.mark.parametrize("kind", ["obj", "glb", "ply"])
def test_every_format_gives_the_same_views_with_colours_in_place(kind: str, body, params, tmp_path: Path) -> None:
    scan = write(tmp_path, kind, body, params)
    packed = scan_sample(VIEWS, 0, scan, body)
    sample = parse_sample(ShardSample(key=packed.key, members=dict(packed.members)))
    assert (packed.source.channel, packed.source.licence, packed.num_frames) == ("scans", "", 3)
    for n in range(3):
        posed = body.pose(sample.body.select(np.array([n]))).vertices[0].numpy()
        assert abs(posed[:, 1].min()) < 1e-3  # on the floor
        camera = sample.world_to_camera[n]
        seen = (posed @ camera[:3, :3].T + camera[:3, 3]).astype(np.float32)
        inside = rasterise(seen, body.faces.numpy().astype(np.int32), sample.intrinsics[n], width=64, height=96)
        matte = sample.alpha(n) > 127
        assert ((inside.face_id >= 0) & matte).sum() / ((inside.face_id >= 0) | matte).sum() > 0.9
        rows = np.flatnonzero(matte.any(1))
        image = sample.image(n).astype(int)
        top, bottom = (image[band][matte[band]].mean(0) for band in (rows[3:20], rows[-20:-3]))
        assert top[0] > top[2] + 30 and bottom[2] > bottom[0] + 30


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v * 100, "centimetres: try --scan-scale 0.01"),
        (lambda v: v * 1000, "millimetres: try --scan-scale 0.001"),
        (lambda v: v[:, [0, 2, 1]] * (1, -1, 1), "try --scan-up z"),
        (lambda v: v + 1.0, "off the scan"),
    ],
)
def test_another_frame_is_recognised(change, words: str, body, params, tmp_path: Path) -> None:
    scan = write(tmp_path, "glb", body, params, change=change)
    with pytest.raises(ScanError, match=words) as told:
        load_scan(scan, body)
    assert "anna.glb" in str(told.value)


@pytest.mark.parametrize(("metres", "up"), [(0.01, "y"), (1.0, "z")])
def test_scale_and_up_axis_bring_a_scan_home(metres: float, up: str, body, params, tmp_path: Path) -> None:
    change = (lambda v: v / metres) if up == "y" else (lambda v: v[:, [0, 2, 1]] * (1, -1, 1))
    write(tmp_path, "ply", body, params, change=change)
    scan = load_scan(find_scans(tmp_path, metres_per_unit=metres, up=up)[0], body)
    posed = body.pose(scan.body).vertices[0].numpy()
    np.testing.assert_allclose(scan.vertices, posed, atol=2e-3)


def test_parameters_of_all_scans_may_lie_in_one_file(body, params, tmp_path: Path) -> None:
    write(tmp_path, "glb", body, params)
    (tmp_path / "anna.npz").unlink()
    poses = tmp_path / "all.npz"
    np.savez(poses, **{f"anna.{name}": array for name, array in params.to_arrays().items()})
    assert load_scan(find_scans(tmp_path, poses=poses)[0], body).body.num_frames == 1


def bad_mesh(folder: Path, name: str) -> Path:
    path = folder / name
    cube = trimesh.creation.box()
    if name == "points.ply":
        trimesh.PointCloud(np.random.default_rng(0).random((20, 3))).export(path)
    elif name == "plain.obj":
        path.write_text("mtllib absent.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl x\nf 1/1 2/1 3/1\n")
    elif name == "nan.obj":
        path.write_text("v 0 0 nan 1 0 0\nv 1 0 0 1 0 0\nv 0 1 0 1 0 0\nf 1 2 3\n")
    elif name == "plain.glb":
        cube.visual = trimesh.visual.TextureVisuals()
        cube.export(path)
    else:
        path.write_bytes(b"glTF this is none")
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("points.ply", "no triangles"), ("plain.obj", "no colours"), ("nan.obj", "not finite"),
        ("plain.glb", "no colours"), ("torn.glb", "cannot be read"), ("torn.ply", "cannot be read"),
    ],
)  # fmt: skip
def test_a_bad_mesh_says_what_is_wrong(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=words) as told:
        read_mesh(bad_mesh(tmp_path, name))
    assert name in str(told.value)


def test_missing_or_wrong_parameters_are_named(body, params, tmp_path: Path) -> None:
    scan = write(tmp_path, "ply", body, params)
    two = {name: np.repeat(a, 2, 0) if name != "betas" else a for name, a in params.to_arrays().items()}
    for arrays, words in ((two, "2 frames"), ({"betas": np.zeros(10)}, "expected arrays")):
        np.savez(tmp_path / "anna.npz", **arrays)
        with pytest.raises(ScanError, match=words):
            load_scan(scan, body)
    (tmp_path / "anna.npz").unlink()
    with pytest.raises(ScanError, match=r"needs one frame of SMPL-X-style parameters"):
        load_scan(scan, body)


def test_folders_without_scans_and_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="holds no scan"):
        find_scans(tmp_path)
    with pytest.raises(ConfigError, match="up axis"):
        find_scans(tmp_path, up="x")
    with pytest.raises(ConfigError, match="scan scale"):
        find_scans(tmp_path, metres_per_unit=0.0)


def test_scan_shards_resume_and_notice_another_texture(body, params, tmp_path: Path) -> None:
    source = tmp_path / "scans"
    source.mkdir()
    scan = write(source, "obj", body, params)
    views = replace(VIEWS, num_views=1)
    first = synthesize_shards(views, 0, tmp_path / "out", free_body_path(), scans=[scan])
    again = synthesize_shards(views, 0, tmp_path / "out", free_body_path(), scans=[scan])
    assert (first.num_rendered, again.num_rendered, again.num_samples) == (1, 0, 1)
    row = Manifest.load(tmp_path / "out" / "manifest.parquet").accepted().iloc[0]
    assert row["key"] == "scan_anna_views" and row["channel"] == "scans" and not row["licence"]
    for image in source.glob("*.png"):
        Image.new("RGB", (8, 8), "green").save(image)
    assert synthesize_shards(views, 0, tmp_path / "out", free_body_path(), scans=[scan]).num_rendered == 1
