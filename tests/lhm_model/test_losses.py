"""Loss terms: values by hand, gradients that exist, ramps, parts, and errors that name the setting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lhmforge.datasets.batch import Batch, BodyBatch
from lhmforge.datasets.body.joints import JOINT_NAMES, NUM_JOINTS, joint
from lhmforge.datasets.errors import ConfigError
from lhmforge.lhm_model.face_crops import face_crops
from lhmforge.lhm_model.gaussians import CanonicalGaussians, PosedGaussians, RenderedViews
from lhmforge.lhm_model.losses import (
    LossConfig,
    PartWeights,
    PointParts,
    acap,
    asap,
    compute_losses,
    on_white,
    ramp_value,
)  # fmt: skip
from lhmforge.lhm_model.model import LHMOutput

B, V, N, H, W = 2, 3, 7, 24, 20


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def a_batch() -> Batch:
    zeros = torch.zeros
    body = BodyBatch(
        betas=zeros(B, 10), expression=zeros(B, V, 10), global_orient=zeros(B, V, 3), body_pose=zeros(B, V, 21, 3),
        jaw_pose=zeros(B, V, 3), leye_pose=zeros(B, V, 3), reye_pose=zeros(B, V, 3),
        left_hand_pose=zeros(B, V, 15, 3), right_hand_pose=zeros(B, V, 15, 3), transl=zeros(B, V, 3),
    )  # fmt: skip
    alpha = zeros(B, V, 1, H, W)
    alpha[..., 4:20, 5:15] = 1.0
    return Batch(
        sample_ids=("a", "b"), source_image=rand(B, 3, H, W), source_alpha=rand(B, 1, H, W), head_image=rand(B, 3, 8, 8),
        head_valid=torch.ones(B, dtype=torch.bool), target_image=rand(B, V, 3, H, W), target_alpha=alpha,
        target_head_box=torch.tensor([5.0, 4.0, 11.0, 10.0]).repeat(B, V, 1), background=torch.ones(B, V, 3),
        intrinsics=torch.eye(3).repeat(B, V, 1, 1), world_to_camera=torch.eye(4).repeat(B, V, 1, 1), body=body,
    )  # fmt: skip


def an_output(batch: Batch) -> LHMOutput:
    scales, offsets = 0.01 + 0.01 * rand(B, N, 3), torch.zeros(B, N, 3)
    shared = {"scales": scales, "opacities": rand(B, N), "colours": rand(B, N, 3)}
    return LHMOutput(
        canonical=CanonicalGaussians(offsets=offsets, rotations=rand(B, N, 4), **shared),
        posed=PosedGaussians(means=rand(B, V, N, 3), rotations=rand(B, V, N, 4), **shared),
        views=RenderedViews(
            colour=batch.target_image.clone(), alpha=batch.target_alpha.clone(), depth=rand(B, V, 1, H, W)
        ),
    )


def some_parts() -> PointParts:
    names = ("head", "left_knee", "spine2", "left_index1", "right_wrist", "pelvis", "left_eye")
    return PointParts.from_skinning(torch.eye(NUM_JOINTS)[[joint(name) for name in names]])


IMAGE_TERMS = LossConfig(perceptual="0", asap="0", acap="0", mask="2")


def test_a_perfect_rendering_costs_nothing() -> None:
    batch = a_batch()
    losses = compute_losses(an_output(batch), batch, config=LossConfig(perceptual="0"), step=0, parts=some_parts())
    assert losses.total == 0
    assert set(losses.parts) == {"colour", "mask", "asap", "acap"}


def test_colour_counts_inside_the_matte_only_and_the_mask_term_everywhere() -> None:
    batch = a_batch()
    output = an_output(batch)
    outside = batch.target_image + 0.25 * (1 - batch.target_alpha)
    elsewhere = replace(output, views=replace(output.views, colour=outside))
    assert compute_losses(elsewhere, batch, config=IMAGE_TERMS, step=0, parts=some_parts()).parts["colour"] == 0
    inside = batch.target_image + 0.25 * batch.target_alpha
    shifted = replace(output, views=replace(output.views, colour=inside, alpha=output.views.alpha + 0.5))
    losses = compute_losses(shifted, batch, config=IMAGE_TERMS, step=0, parts=some_parts())
    torch.testing.assert_close(losses.parts["colour"], 0.25 * batch.target_alpha.mean())
    torch.testing.assert_close(losses.parts["mask"], torch.tensor(0.5))
    torch.testing.assert_close(losses.total, losses.parts["colour"] + 2 * losses.parts["mask"])


def test_on_white_is_white_outside() -> None:
    image = on_white(rand(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))
    assert torch.equal(image, torch.ones(1, 3, 4, 4))


def test_asap_weighs_the_excess_ratio_by_part() -> None:
    scales = torch.full((1, 7, 3), 0.01)
    scales[0, 3, 0] = 0.08  # a finger splat of ratio 8: three above the bound
    weights = PartWeights(head=1.0, lower_body=10.0, upper_body=100.0, hands=1000.0)
    parts = some_parts()
    value = asap(scales, parts, weights, 5.0)
    expected = 3 * (100 / int(parts.upper_body.sum()) + 1000 / int(parts.hands.sum()))
    assert value.item() == pytest.approx(expected, rel=1e-3)
    assert asap(scales[:, :3], PointParts.from_skinning(torch.eye(NUM_JOINTS)[:3]), weights, 5.0) == 0


def test_acap_is_free_near_the_body_and_has_a_gradient_at_the_start() -> None:
    offsets = torch.zeros(1, 4, 3, requires_grad=True)
    value = acap(offsets, 0.05)
    value.backward()
    assert value == 0 and torch.isfinite(offsets.grad).all()
    far = torch.zeros(1, 4, 3)
    far[0, 0, 1] = 0.15
    assert acap(far, 0.05).item() == pytest.approx(0.1 / 4, rel=1e-4)


def test_parts_cover_every_joint() -> None:
    parts = PointParts.from_skinning(torch.eye(NUM_JOINTS))
    covered = parts.head | parts.lower_body | parts.upper_body
    assert covered.all(), [JOINT_NAMES[i] for i in torch.where(~covered)[0]]
    assert (parts.hands & ~parts.upper_body).sum() == 0
    assert not (parts.head & (parts.lower_body | parts.upper_body)).any()
    assert parts.hands.sum() == 32


def test_ramps_are_linear_between_their_steps() -> None:
    values = [ramp_value("100:1:10:300", step) for step in (0, 100, 200, 300, 9999)]
    assert values == [1.0, 1.0, 5.5, 10.0, 10.0]
    assert ramp_value("0.5", 7) == 0.5


@pytest.mark.parametrize("ramp", ["", "fast", "1:2:3", "5:1:2:5", "0:a:1:2"])
def test_a_bad_ramp_names_its_field(ramp: str) -> None:
    with pytest.raises(ConfigError, match=r"loss\.mask"):
        LossConfig(mask=ramp)


def test_a_term_without_its_network_says_so() -> None:
    batch = a_batch()
    for config, name in ((LossConfig(), "perceptual"), (replace(IMAGE_TERMS, face_id="1"), "face_id")):
        with pytest.raises(ConfigError, match=rf"loss\.{name}"):
            compute_losses(an_output(batch), batch, config=config, step=0, parts=some_parts())


def test_face_id_compares_head_crops_and_ignores_views_without_a_face() -> None:
    batch = a_batch()
    output = an_output(batch)
    config = replace(IMAGE_TERMS, face_id="1")
    mean_grey = lambda crops: crops.mean((2, 3))  # noqa: E731
    darker = replace(output, views=replace(output.views, colour=(output.views.colour - 0.5).requires_grad_()))
    arguments = {"config": config, "step": 0, "parts": some_parts(), "face_features": mean_grey}
    losses = compute_losses(darker, batch, **arguments)
    assert losses.parts["face_id"].item() == pytest.approx(0.5, rel=1e-4)
    losses.total.backward()
    assert darker.views.colour.grad.abs().sum() > 0
    blind = replace(batch, target_head_box=torch.zeros(B, V, 4))
    assert compute_losses(darker, blind, **arguments).parts["face_id"] == 0


def test_face_crops_cut_the_box() -> None:
    image = torch.zeros(1, 3, 40, 60)
    image[:, :, 10:20, 30:50] = 1.0
    crop = face_crops(image, torch.tensor([[30.0, 10.0, 50.0, 20.0]]))
    assert crop[0, 0, 8:-8, 8:-8].min() == pytest.approx(1.0)
    assert face_crops(image, torch.tensor([[0.0, 22.0, 28.0, 40.0]])).max() == 0
