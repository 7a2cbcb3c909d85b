"""The body model: file checks, SMPL-X semantics, skinning invariants, and parity with the `smplx` package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lhmforge.datasets.batch import BodyBatch
from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.lbs import axis_angle_to_matrix
from lhmforge.datasets.body.model import BodyModel, full_pose
from lhmforge.datasets.body.npz_writer import write_body_file
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.body.resolve import body_path
from lhmforge.datasets.body.toy import toy_body_arrays, write_toy_body
from lhmforge.datasets.errors import BodyError


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> BodyModel:
    return BodyModel.load(write_toy_body(tmp_path_factory.mktemp("body") / "toy.npz"))


@pytest.fixture(scope="module")
def free() -> BodyModel:
    return BodyModel.load(free_body_path())


def random_inputs(batch: int, *, scale: float = 0.4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return {
        "betas": draw(batch, 10),
        "expression": draw(batch, 10),
        "full_pose": scale * draw(batch, 55, 3),
        "transl": draw(batch, 3),
    }


@pytest.mark.filterwarnings("ignore")  # the package warns about its own defaults
def test_parity_with_the_smplx_package(free: BodyModel, tmp_path: Path) -> None:
    smplx = pytest.importorskip("smplx")
    arrays = dict(np.load(free.source))
    arrays |= {"lmk_faces_idx": np.zeros(51, np.int64), "lmk_bary_coords": np.full((51, 3), 1 / 3)}
    np.savez(tmp_path / "SMPLX_NEUTRAL.npz", **arrays)
    reference = smplx.create(
        str(tmp_path / "SMPLX_NEUTRAL.npz"), model_type="smplx", use_pca=False, flat_hand_mean=True, batch_size=4
    )
    inputs = random_inputs(4)
    pose = inputs["full_pose"]
    with torch.no_grad():
        theirs = reference(
            betas=inputs["betas"],
            expression=inputs["expression"],
            transl=inputs["transl"],
            global_orient=pose[:, 0],
            body_pose=pose[:, 1:22].flatten(1),
            jaw_pose=pose[:, 22],
            leye_pose=pose[:, 23],
            reye_pose=pose[:, 24],
            left_hand_pose=pose[:, 25:40].flatten(1),
            right_hand_pose=pose[:, 40:].flatten(1),
        )
    ours = free.forward(**inputs)
    assert (ours.vertices - theirs.vertices).abs().max() < 1e-5
    assert (ours.joints - theirs.joints[:, :55]).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_skinning_parity_at_another_vertex_count(toy: BodyModel) -> None:
    lbs = pytest.importorskip("smplx.lbs").lbs
    inputs = random_inputs(3)
    vertices, joints = lbs(
        torch.cat([inputs["betas"], inputs["expression"]], dim=1),
        inputs["full_pose"].flatten(1),
        toy.v_template,
        torch.cat([toy.shapedirs, toy.exprdirs], dim=-1),
        toy.posedirs,
        toy.J_regressor,
        torch.tensor(toy.parents),
        toy.weights,
    )
    ours = toy.forward(**{**inputs, "transl": torch.zeros(3, 3)})
    assert (ours.vertices - vertices).abs().max() < 1e-5
    assert (ours.joints - joints).abs().max() < 1e-5


def test_zero_pose_is_the_template(toy: BodyModel) -> None:
    output = toy.pose(BodyParams.rest(2))
    torch.testing.assert_close(output.vertices[1], toy.v_template)
    torch.testing.assert_close(output.joints[0], toy.J_regressor @ toy.v_template)


def test_global_rotation_turns_the_body_about_the_pelvis(toy: BodyModel) -> None:
    inputs = random_inputs(1)
    before = toy.forward(**inputs)
    turn = Rotation.from_rotvec([0.3, -1.2, 0.5])
    turned_pose = inputs["full_pose"].clone()
    turned_pose[0, 0] = torch.tensor((turn * Rotation.from_rotvec(turned_pose[0, 0].numpy())).as_rotvec())
    after = toy.forward(**{**inputs, "full_pose": turned_pose})
    matrix, pelvis = torch.tensor(turn.as_matrix(), dtype=torch.float32), before.joints[:, :1]
    torch.testing.assert_close(after.vertices, (before.vertices - pelvis) @ matrix.T + pelvis, atol=1e-5, rtol=0)


def test_bones_keep_their_length_in_any_pose(free: BodyModel) -> None:
    inputs = random_inputs(3)
    posed, rest = free.forward(**inputs).joints, free.joints_rest(inputs["betas"], inputs["expression"])
    parents = torch.tensor(free.parents[1:])
    length = lambda joints: (joints[:, 1:] - joints[:, parents]).norm(dim=-1)  # noqa: E731
    torch.testing.assert_close(length(posed), length(rest), atol=1e-5, rtol=0)


def test_transforms_explain_the_vertices(toy: BodyModel) -> None:
    inputs = random_inputs(2)
    output = toy.forward(**inputs, pose_correctives=False)
    rest = toy.vertices_rest(inputs["betas"], inputs["expression"])
    blended = torch.einsum("vj,bjrc->bvrc", toy.weights, output.transforms)
    expected = (blended[..., :3, :3] @ rest[..., None])[..., 0] + blended[..., :3, 3]
    torch.testing.assert_close(output.vertices, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.transforms, toy.joint_transforms(**inputs))


def test_pose_correctives_can_be_switched_off(free: BodyModel) -> None:
    inputs = random_inputs(1)
    moved = free.forward(**inputs).vertices - free.forward(**inputs, pose_correctives=False).vertices
    assert 1e-3 < moved.norm(dim=-1).max() < 0.2


def test_gradients_are_finite_at_zero_pose_and_match_finite_differences(toy: BodyModel) -> None:
    zero = torch.zeros(1, 55, 3, requires_grad=True)
    toy.forward(betas=torch.zeros(1, 10), full_pose=zero, transl=torch.zeros(1, 3)).vertices.square().sum().backward()
    assert torch.isfinite(zero.grad).all() and zero.grad.abs().max() > 0
    angles = torch.tensor([[0.0, 0, 0], [1e-4, -2e-4, 0], [1.0, 2.0, -0.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(axis_angle_to_matrix, angles)


def test_axis_angle_matches_scipy() -> None:
    vectors = torch.randn(50, 3, dtype=torch.float64) * torch.logspace(-8, 0.5, 50, dtype=torch.float64)[:, None]
    expected = torch.tensor(Rotation.from_rotvec(vectors.numpy()).as_matrix())
    torch.testing.assert_close(axis_angle_to_matrix(vectors), expected, atol=1e-11, rtol=0)


def test_full_pose_orders_joints_alike_for_tracks_and_batches() -> None:
    rng = np.random.default_rng(0)
    params = BodyParams.from_arrays({n: rng.normal(size=a.shape) for n, a in BodyParams.rest(3).to_arrays().items()})
    pose = full_pose(params)
    assert pose.shape == (3, 55, 3)
    np.testing.assert_array_equal(pose[:, 22], params.jaw_pose)
    np.testing.assert_array_equal(pose[:, 25:40], params.left_hand_pose)
    per_view = {n: torch.tensor(a)[None] for n, a in params.to_arrays().items()}
    np.testing.assert_array_equal(full_pose(BodyBatch(**per_view))[0].numpy(), pose)


def test_digests_tell_bodies_apart(tmp_path: Path, toy: BodyModel) -> None:
    arrays = toy_body_arrays()
    arrays["v_template"] = arrays["v_template"] * 1.01
    other_path = tmp_path / "other.npz"
    write_body_file(other_path, arrays)
    other = BodyModel.load(other_path)
    assert other.digest != toy.digest and other.topology_digest == toy.topology_digest
    with pytest.raises(BodyError, match="belong to another body"):
        BodyModel.load(other_path, expected_digest=toy.digest)


def broken(name: str, change: Callable[[np.ndarray], np.ndarray] | None) -> dict[str, np.ndarray]:
    arrays = toy_body_arrays()
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    return arrays


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("posedirs", None, r"\['posedirs'\] are missing"),
        ("posedirs", lambda a: a[:, :, :207], "posedirs has shape .* expected 980 x 3 x 486"),
        ("weights", lambda a: a[:-1], "weights has shape"),
        ("weights", lambda a: a * 0.5, "do not sum to 1"),
        ("f", lambda a: a + 10, "f names vertices outside"),
        ("v_template", lambda a: np.where(a > 0.5, np.nan, a), "v_template holds a value that is not finite"),
        ("kintree_table", lambda a: a[:, ::-1], "not the joint tree"),
    ],
)
def test_a_foreign_file_is_named_for_what_is_wrong(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray] | None, message: str
) -> None:
    path = tmp_path / "body.npz"
    write_body_file(path, broken(name, change))
    with pytest.raises(BodyError, match=message):
        BodyModel.load(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(BodyError, match="no such body model file"):
        BodyModel.load(tmp_path / "absent.npz")
    torn = write_toy_body(tmp_path / "torn.npz")
    torn.write_bytes(torn.read_bytes()[:5000])
    with pytest.raises(BodyError, match="not a readable"):
        BodyModel.load(torn)
    pickled = tmp_path / "body.npz"
    np.savez(pickled, **{**toy_body_arrays(), "v_template": np.array([{}], dtype=object)})
    with pytest.raises(BodyError, match="not a readable"):
        BodyModel.load(pickled)
    bare = tmp_path / "bare.npz"
    with bare.open("wb") as handle:
        np.save(handle, np.zeros(3))
    with pytest.raises(BodyError, match="not a readable"):
        BodyModel.load(bare)


def test_too_many_components_are_refused(tmp_path: Path, toy: BodyModel) -> None:
    with pytest.raises(BodyError, match="16 betas components asked for, the file has 10"):
        BodyModel.load(Path(toy.source), num_betas=16)
    with pytest.raises(BodyError, match="12 betas given"):
        toy.joints_rest(torch.zeros(1, 12))
    wide = tmp_path / "wide.npz"
    write_body_file(wide, toy_body_arrays(num_shape=16, num_expression=4))
    assert BodyModel.load(wide, num_betas=16, num_expression=4).num_betas == 16


def test_same_arrays_same_bytes(tmp_path: Path) -> None:
    assert write_toy_body(tmp_path / "a.npz").read_bytes() == write_toy_body(tmp_path / "b.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_resolve_finds_a_file_in_a_folder(tmp_path: Path) -> None:
    path = write_toy_body(tmp_path / "smplx" / "SMPLX_NEUTRAL.npz")
    assert body_path(str(tmp_path)) == path == body_path(str(path))
    with pytest.raises(BodyError, match="no such body model file"):
        body_path(str(tmp_path / "absent.npz"))
    with pytest.raises(BodyError, match=r"holds no SMPLX_NEUTRAL.npz"):
        body_path(str(tmp_path.parent))
