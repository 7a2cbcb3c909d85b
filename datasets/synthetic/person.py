"""A synthetic person: the free body painted and dressed, posed by SMPL-X parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy.spatial import cKDTree

from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.lbs import axis_angle_to_matrix, skin_points
from lhmforge.datasets.body.model import BodyModel, full_pose
from lhmforge.datasets.body.params import NUM_BETAS, BodyParams
from lhmforge.datasets.synthetic.drape import DrapedPiece, close_fitting, hanging, settled
from lhmforge.datasets.synthetic.fabric import to_texture
from lhmforge.datasets.synthetic.outfit import WAIST, Garment, random_outfit
from lhmforge.datasets.synthetic.raster import Surface
from lhmforge.datasets.synthetic.skin import body_atlas, paint_skin, random_complexion
from lhmforge.datasets.synthetic.wardrobe import Shells, load_shells


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Person:
    """The dressed rest mesh of one person; the first vertices are the body's."""

    body: BodyModel
    betas: Float32[np.ndarray, " S"]
    surface: Surface
    rest: Float32[torch.Tensor, "V 3"]  # clothes included, shaped by betas
    weights: Float32[torch.Tensor, "V 55"]
    corrective_vertex: Int64[torch.Tensor, " V"]  # body vertex whose pose corrective (and expression) applies
    garments: tuple[Garment, ...]  # in the order of the surface's textures, which begin with the skin
    draped: tuple[DrapedPiece, ...]

    def pose(self, params: BodyParams) -> Float32[np.ndarray, "N V 3"]:
        """Vertices in every frame, in the frame of `params`; `params.betas` must be this person's."""
        assert np.array_equal(params.betas, self.betas), "pose parameters of another person"
        body = self.body
        as_tensor = torch.from_numpy
        pose = as_tensor(full_pose(params))
        betas = as_tensor(self.betas)[None].expand(len(pose), -1)
        with torch.no_grad():
            expression = as_tensor(params.expression)
            transforms = body.joint_transforms(
                betas=betas, full_pose=pose, transl=as_tensor(params.transl), expression=expression
            )
            moved = body.pose_offsets(axis_angle_to_matrix(pose))
            moved = moved + torch.einsum("ne,vce->nvc", expression, body.exprdirs[..., : expression.shape[1]])
            posed = skin_points(self.rest + moved[:, self.corrective_vertex], self.weights, transforms).numpy()
        faces = body.faces.numpy().astype(np.int32)
        return np.stack([settled(self.draped, vertices, faces, body.num_vertices) for vertices in posed])


def make_person(body: BodyModel, rng: np.random.Generator) -> Person:
    """A random person: shape within about two deviations, complexion, clothes, hair."""
    betas = np.clip(rng.normal(size=NUM_BETAS), -2.2, 2.2).astype(np.float32)
    betas[2:] *= 0.8
    complexion = random_complexion(rng)
    shells = load_shells()
    garments = random_outfit(shells, rng, complexion.hair, has_hair=complexion.scalp_hair > 0)
    atlas = body_atlas(body)
    skin = paint_skin(atlas, complexion)
    for garment in garments:  # should the body show through a seam, it has the garment's colour there
        if garment.covers is not None and garment.name != "skirt":
            under = garment.covers.contains(atlas.position, margin=0.01) & atlas.filled & ~atlas.is_head
            skin[under] = 0.8 * garment.mean_colour
    return _assemble(body, shells, betas, to_texture(skin), garments)


def _assemble(
    body: BodyModel,
    shells: Shells,
    betas: Float32[np.ndarray, " S"],
    skin: np.ndarray,
    garments: tuple[Garment, ...],
) -> Person:
    assert body.uv is not None and body.uv_faces is not None
    template = body.v_template.numpy()
    nearest = cKDTree(template).query(shells.vertices)[1].astype(np.int64)
    shaped_shell = shells.vertices + shells.shapedirs[..., : len(betas)] @ betas
    shown = _shown_faces(body, garments)
    faces = [body.faces.numpy()[shown].astype(np.int32)]
    face_uv = [body.uv.numpy()[body.uv_faces.numpy()[shown]]]
    rest = [body.vertices_rest(torch.from_numpy(betas)[None])[0].numpy()]
    weights, follows = [body.weights.numpy()], [np.arange(body.num_vertices)]
    draped = []
    for garment in garments:
        piece = garment.piece
        first = sum(len(r) for r in rest)
        if garment.covers is not None:
            draped.append(_draped(garment, shells, template, first))
        faces.append(piece.faces + np.int32(first))
        face_uv.append(piece.uv[piece.faces])
        rest.append(shaped_shell[piece.shell_vertex] + piece.offset)
        weights.append(_blended(garment, shells)[piece.shell_vertex])
        follows.append(nearest[piece.shell_vertex])
    surface = Surface(
        faces=np.concatenate(faces),
        face_uv=np.concatenate(face_uv).astype(np.float32),
        face_texture=np.repeat(np.arange(len(faces)), [len(f) for f in faces]).astype(np.int32),
        textures=(skin, *(garment.texture for garment in garments)),
        materials=("skin", *("hair" if garment.name == "hair" else "cloth" for garment in garments)),
    )
    return Person(
        body=body,
        betas=betas,
        surface=surface,
        rest=torch.from_numpy(np.concatenate(rest).astype(np.float32)),
        weights=torch.from_numpy(np.concatenate(weights).astype(np.float32)),
        corrective_vertex=torch.from_numpy(np.concatenate(follows)),
        garments=garments,
        draped=tuple(draped),
    )


def _draped(garment: Garment, shells: Shells, template: Float32[np.ndarray, "B 3"], first: int) -> DrapedPiece:
    """What keeps a garment outside of the body: a skirt meets both thighs, the rest what lies below it."""
    piece = garment.piece
    rest = shells.vertices[piece.shell_vertex] + piece.offset
    if garment.name == "skirt":
        below = np.flatnonzero((template[:, 1] < WAIST + 0.08) & (template[:, 1] > rest[:, 1].min() - 0.1))
        return hanging(first, len(rest), piece.faces, below, clearance_m=garment.clearance_m)
    # Never more than the garment has at rest: where it is cut tighter it was meant to be.
    apart = cKDTree(template).query(rest)[0]
    clearance = np.minimum(garment.clearance_m, 0.8 * apart).astype(np.float32)
    return close_fitting(first, rest, piece.faces, template, clearance_m=clearance)


def _blended(garment: Garment, shells: Shells) -> Float32[np.ndarray, "V 55"]:
    """Skinning weights of a garment; long hair follows the head alone, so that it does not fold with the neck."""
    if garment.name != "hair":
        return shells.weights
    head = np.zeros_like(shells.weights)
    head[:, joint("head")] = 1
    drop = np.clip((0.14 - shells.vertices[:, 1]) / 0.15, 0, 1)[:, None]
    mixed: np.ndarray = (1 - drop) * head + drop * shells.weights
    return mixed.astype(np.float32)


def _shown_faces(body: BodyModel, garments: tuple[Garment, ...]) -> np.ndarray:
    """Body faces that no garment covers with a margin."""
    centres = body.v_template.numpy()[body.faces.numpy()].mean(1)
    owner = body.dominant_joint.numpy()[body.faces.numpy()[:, 0]]
    hands = owner >= joint("left_index1")
    head = np.isin(owner, [joint("head"), joint("jaw"), joint("left_eye"), joint("right_eye")])
    covered = np.zeros(len(centres), bool)
    for garment in garments:
        if garment.covers is not None:
            covered |= garment.covers.contains(centres, margin=garment.cover_margin_m)
    shown: np.ndarray = ~covered | hands | head
    return shown
