"""Every switch of the paper's ablations can be set by name, and each changes what it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lhmforge.datasets.batch import Batch, BodyBatch
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import CheckpointError, ConfigError
from lhmforge.jobs.config import TrainConfig
from lhmforge.jobs.settings import with_settings
from lhmforge.lhm_model.face_network import CROP_PX, FaceNetwork, load_face_network
from lhmforge.lhm_model.gaussians import CanonicalGaussians
from lhmforge.lhm_model.losses import LossConfig, PointParts, compute_losses
from lhmforge.lhm_model.model import LHM, LHMOutput
from lhmforge.lhm_model.transformer import BodyHeadBlock, PlainBlock


def test_a_setting_is_found_by_its_path(small_config: TrainConfig) -> None:
    changed = with_settings(
        small_config, ["loss.asap=0", "model.head_token_shrinkage=0.25", "loader.num_target_views=1", "model.name=mine"]
    )
    assert (changed.loss.asap, changed.model.head_token_shrinkage, changed.loader.num_target_views) == ("0", 0.25, 1)
    assert changed.model.name == "mine" and changed.fingerprint != small_config.fingerprint
    assert with_settings(small_config, []) == small_config


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("loss.asapp=0", "there is no 'asapp' here; valid: .*asap"),
        ("loss.asap.deep=0", "nothing below"),
        ("asap", "path.to.field=value"),
        ("model.architecture=other", "architecture"),
        ("loss.acap=1:2", "loss.acap"),
        ("model.head_token_shrinkage=2", "head_token_shrinkage"),
        ("loss.face_id=0.05", "face_network"),
    ],
)
def test_settings_that_cannot_be_are_refused(small_config: TrainConfig, setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_settings(small_config, [setting])


def _model(config: TrainConfig) -> LHM:
    torch.manual_seed(0)
    return LHM(config.model, BodyModel.load(Path(str(config.body))))


def test_plain_transformer_in_place_of_the_body_head_one(small_config: TrainConfig) -> None:
    plain = _model(with_settings(small_config, ["model.architecture=plain"]))
    own = _model(small_config)
    assert any(isinstance(module, PlainBlock) for module in plain.modules())
    assert not any(isinstance(module, BodyHeadBlock) for module in plain.modules())
    assert any(isinstance(module, BodyHeadBlock) for module in own.modules())


def test_shrinkage_masks_head_tokens_in_training_only(small_config: TrainConfig) -> None:
    on = _model(with_settings(small_config, ["model.head_token_shrinkage=0.9"]))
    tokens, seen = torch.randn(4, 200, on.config.head_encoder.channels), torch.ones(4, dtype=torch.bool)
    masked = (on.train()._mask_head(tokens, seen) != tokens).any(-1).float().mean(1)
    assert 0.05 < float(masked.mean()) < 0.9 and len(set(masked.tolist())) == 4
    assert torch.equal(on.eval()._mask_head(tokens, seen), tokens)
    off = _model(with_settings(small_config, ["model.head_token_shrinkage=0"]))
    assert torch.equal(off.train()._mask_head(tokens, seen), tokens)


def _loss_parts(
    output: LHMOutput, batch: Batch, config: LossConfig, face: FaceNetwork | None = None
) -> dict[str, float]:
    count = output.canonical.scales.shape[1]
    parts = PointParts.from_skinning(torch.eye(55)[torch.arange(count) % 55])
    losses = compute_losses(output, batch, config=config, step=3000, parts=parts, face_features=face)
    return {name: float(value) for name, value in losses.parts.items()}


@pytest.fixture
def stretched(small_config: TrainConfig) -> tuple[LHMOutput, Batch]:
    """Needles far off the body, seen in one picture with a head box."""
    model = _model(small_config)
    zeros = torch.zeros
    body = BodyBatch(
        betas=zeros(1, 10),
        expression=zeros(1, 1, 10),
        global_orient=zeros(1, 1, 3),
        body_pose=zeros(1, 1, 21, 3),
        jaw_pose=zeros(1, 1, 3),
        leye_pose=zeros(1, 1, 3),
        reye_pose=zeros(1, 1, 3),
        left_hand_pose=zeros(1, 1, 15, 3),
        right_hand_pose=zeros(1, 1, 15, 3),
        transl=zeros(1, 1, 3),
    )
    camera = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    camera[2, 3] = 3.0
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        sample_ids=("one",),
        source_image=torch.rand(1, 3, 80, 48, generator=generator),
        source_alpha=torch.ones(1, 1, 80, 48),
        head_image=torch.rand(1, 3, 32, 32, generator=generator),
        head_valid=torch.tensor([True]),
        target_image=torch.rand(1, 1, 3, 48, 48, generator=generator),
        target_alpha=torch.ones(1, 1, 1, 48, 48),
        target_head_box=torch.tensor([[[10.0, 4.0, 34.0, 28.0]]]),
        background=torch.ones(1, 1, 3),
        intrinsics=torch.tensor([[60.0, 0.0, 24.0], [0.0, 60.0, 24.0], [0.0, 0.0, 1.0]])[None, None],
        world_to_camera=camera[None, None],
        body=body,
    )
    output = model(batch, backend="torch")
    count = output.canonical.scales.shape[1]
    far = CanonicalGaussians(
        offsets=torch.full((1, count, 3), 0.2),
        scales=torch.tensor([0.1, 0.001, 0.001]).repeat(1, count, 1),
        rotations=output.canonical.rotations,
        opacities=output.canonical.opacities,
        colours=output.canonical.colours,
    )
    return replace(output, canonical=far), batch


def test_asap_and_acap_act_and_can_be_switched_off(
    stretched: tuple[LHMOutput, Batch], small_config: TrainConfig
) -> None:
    output, batch = stretched
    without = with_settings(small_config, ["loss.perceptual=0"])
    whole = _loss_parts(output, batch, without.loss)
    assert whole["asap"] > 0 and whole["acap"] == pytest.approx(0.2 * 3**0.5 - 1.8 / 32, abs=1e-4)
    for term in ("asap", "acap"):
        left = _loss_parts(output, batch, with_settings(without, [f"loss.{term}=0"]).loss)
        assert term not in left and left.keys() == whole.keys() - {term}


@pytest.fixture(scope="module")
def face_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the form of the spread file: names of a data-parallel wrapper, a torch file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("face") / "arcface_resnet18.pth"
    torch.save({f"module.{name}": value for name, value in FaceNetwork().state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def face_network(face_file: Path) -> FaceNetwork:
    return load_face_network(face_file)


def test_the_face_network_has_the_released_size_and_is_constant(face_network: FaceNetwork) -> None:
    network = face_network
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_627_081
    assert not any(parameter.requires_grad for parameter in network.parameters())
    crops = torch.rand(2, 1, CROP_PX, CROP_PX, requires_grad=True)
    features = network.train()(crops)
    assert features.shape == (2, 512)
    torch.testing.assert_close(network(crops[:1]), features[:1], atol=1e-4, rtol=1e-4)  # no batch statistics
    features.sum().backward()
    assert crops.grad is not None and bool((crops.grad != 0).any())


def test_the_face_loss_runs_with_the_users_file(
    stretched: tuple[LHMOutput, Batch], small_config: TrainConfig, face_file: Path, face_network: FaceNetwork
) -> None:
    output, batch = stretched
    config = with_settings(
        replace(small_config, face_network=str(face_file)), ["loss.face_id=0.05", "loss.perceptual=0"]
    )
    parts = _loss_parts(output, batch, config.loss, face_network)
    assert parts["face_id"] > 0
    alike = replace(output, views=replace(output.views, colour=batch.target_image))
    assert _loss_parts(alike, batch, config.loss, face_network)["face_id"] == 0.0


def test_odd_face_files_say_what_is_wrong_and_where_to_get_it(face_file: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.pth").write_bytes(face_file.read_bytes()[:5000])
    state = FaceNetwork().state_dict()
    state["fc5.weight"] = torch.zeros(4, 4)
    del state["bn5.bias"]
    save_file(state, tmp_path / "other.safetensors")
    for name, words in (("absent.pth", "no such"), ("torn.pth", "not a readable"), ("other.safetensors", "bn5.*fc5")):
        with pytest.raises(CheckpointError, match=words) as caught:
            load_face_network(tmp_path / name)
        assert "arcface_resnet18.pth" in str(caught.value) and "face_network" in str(caught.value)
