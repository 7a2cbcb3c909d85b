"""The encoder roles: file formats, freezing, geometry."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lhmforge.datasets.errors import BackendError, CheckpointError, ConfigError
from lhmforge.lhm_model.config import EncoderConfig
from lhmforge.lhm_model.encoder_dinov2 import DinoHeadEncoder, DinoV2
from lhmforge.lhm_model.encoder_frozen import FrozenBodyEncoder, PlainVit
from lhmforge.lhm_model.encoders import SmallEncoder
from lhmforge.lhm_model.vision_transformer import square_on_white

DINO = {"kind": "dinov2", "image_size": 56, "patch_size": 14, "channels": 16, "depth": 4, "num_heads": 2}
SAPIENS = {"kind": "sapiens", "image_size": 32, "patch_size": 16, "channels": 12, "depth": 1, "num_heads": 2}


def _dino(weights: str = "") -> EncoderConfig:
    return EncoderConfig(**DINO, num_registers=4, taps=(1, 3), weights=weights)


class _Scripted(torch.nn.Module):
    """Stands for the TorchScript file: a strided convolution that returns a tuple with one feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 12, 16, stride=16)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.patches(image),)


@pytest.fixture(scope="module")
def scripted_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sapiens") / "encoder.pt2"
    torch.manual_seed(0)
    with pytest.warns(DeprecationWarning):
        torch.jit.trace(_Scripted(), torch.zeros(1, 3, 32, 32)).save(str(path))
    return path


def test_dino_fuses_its_taps_into_one_token_per_patch() -> None:
    encoder = DinoHeadEncoder(_dino(), normalised=False)
    assert encoder(torch.rand(2, 3, 40, 40)).shape == (2, 16, 16)
    assert len(encoder.backbone(torch.rand(1, 3, 56, 56))) == 2


def test_a_dino_file_loads_by_its_own_names(tmp_path: Path) -> None:
    source = DinoV2(_dino())
    assert "blocks.3.attn.qkv.weight" in source.state_dict() and "blocks.0.ls1.gamma" in source.state_dict()
    state = {**source.state_dict(), "mask_token": torch.zeros(1, 16)}
    save_file(state, tmp_path / "dino.safetensors")
    torch.save(state, tmp_path / "dino.pth")
    for name in ("dino.safetensors", "dino.pth"):
        loaded = DinoHeadEncoder(_dino(str(tmp_path / name)), normalised=True).backbone
        torch.testing.assert_close(loaded.state_dict(), source.state_dict())


def test_a_foreign_dino_file_is_refused_by_tensor_name(tmp_path: Path) -> None:
    state = DinoV2(_dino()).state_dict()
    state.pop("norm.bias")
    state["pos_embed"] = torch.zeros(1, 5, 16)
    save_file(state, tmp_path / "dino.safetensors")
    with pytest.raises(CheckpointError, match=r"norm\.bias.*pos_embed.*Apache-2\.0.*facebookresearch/dinov2"):
        DinoHeadEncoder(_dino(str(tmp_path / "dino.safetensors")), normalised=True)
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(CheckpointError, match="not a readable"):
        DinoHeadEncoder(_dino(str(tmp_path / "torn.pth")), normalised=True)


def _as_timm(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = {name: tensor for name, tensor in state.items() if name not in ("register_tokens", "pos_embed", "cls_token")}
    out["reg_token"], out["pos_embed"] = state["register_tokens"], state["pos_embed"][:, 1:]
    return {**out, "cls_token": state["cls_token"] + state["pos_embed"][:, :1]}


def _as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names as `Dinov2WithRegistersModel` has them."""
    out = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            block, leaf = name.split(".")[1], name.rpartition(".")[2]
            for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[f"encoder.layer.{block}.attention.attention.{part}.{leaf}"] = value.clone()
            continue
        for old, new in (
            ("pos_embed", "embeddings.position_embeddings"),
            ("cls_token", "embeddings.cls_token"),
            ("register_tokens", "embeddings.register_tokens"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("attn.proj", "attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
            ("blocks.", "encoder.layer."),
        ):
            name = name.replace(old, new)
        out["layernorm." + name.removeprefix("norm.") if name.startswith("norm.") else name] = tensor
    return {**out, "embeddings.mask_token": torch.zeros(1, state["cls_token"].shape[-1])}


@pytest.mark.parametrize("layout", ["hub", "timm", "transformers", "wrapped"])
def test_every_known_layout_gives_the_same_tokens(layout: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = DinoV2(_dino()).eval()
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = source.state_dict()
    layouts = {
        "hub": {**state, "mask_token": torch.zeros(1, 16)},
        "timm": _as_timm(state),
        "transformers": _as_transformers(state),
        "wrapped": {f"module.{name}": tensor for name, tensor in state.items()},
    }
    save_file(layouts[layout], tmp_path / "dino.safetensors")
    loaded = DinoHeadEncoder(_dino(str(tmp_path / "dino.safetensors")), normalised=True).backbone.eval()
    image = torch.rand(1, 3, 56, 56)
    for ours, theirs in zip(loaded(image), source(image), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_torn_files_are_told_from_missing_ones(tmp_path: Path, scripted_file: Path) -> None:
    torch.save(DinoV2(_dino()).state_dict(), tmp_path / "whole.pth")
    save_file(DinoV2(_dino()).state_dict(), tmp_path / "whole.safetensors")
    for name in ("whole.pth", "whole.safetensors"):
        for share in (0.01, 0.5, 0.99):
            data = (tmp_path / name).read_bytes()
            torn = tmp_path / f"torn_{name}"
            torn.write_bytes(data[: int(len(data) * share)])
            with pytest.raises(CheckpointError, match=r"torn|not a readable"):
                DinoHeadEncoder(_dino(str(torn)), normalised=True)
    for share in (0.01, 0.5, 0.99):
        data = scripted_file.read_bytes()
        (tmp_path / "torn.pt2").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(BackendError, match="torn or not a TorchScript"):
            _sapiens(str(tmp_path / "torn.pt2"))
    with pytest.raises(CheckpointError, match=r"no such weight file.*random"):
        DinoHeadEncoder(_dino(str(tmp_path / "absent.pth")), normalised=True)


def test_the_frozen_encoder_reads_torchscript_and_stays_out_of_the_model(scripted_file: Path) -> None:
    encoder = _sapiens(str(scripted_file))
    tokens = encoder(torch.rand(2, 3, 48, 30, requires_grad=True))
    assert tokens.shape == (2, 4, 12) and not tokens.requires_grad
    assert not list(encoder.parameters()) and not encoder.state_dict()
    assert encoder.num_frozen_parameters == 3 * 16 * 16 * 12 + 12
    assert encoder.to(torch.float64)(torch.rand(1, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64


def test_missing_or_foreign_sapiens_files_are_named(tmp_path: Path, scripted_file: Path) -> None:
    with pytest.raises(BackendError, match="not redistributable"):
        FrozenBodyEncoder(EncoderConfig(**SAPIENS))
    with pytest.raises(BackendError, match=r"does not exist.*huggingface"):
        FrozenBodyEncoder(EncoderConfig(**SAPIENS, weights=str(tmp_path / "no.pt2")))
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(BackendError, match=r"not a TorchScript.*Sapiens License"):
        _sapiens(str(tmp_path / "text.pt2"))
    wrong = EncoderConfig(**{**SAPIENS, "channels": 24}, weights=str(scripted_file))
    with pytest.raises(BackendError, match="tokens of shape"):
        _sapiens("", wrong)(torch.rand(1, 3, 32, 32))


def _sapiens(weights: str, config: EncoderConfig | None = None) -> FrozenBodyEncoder:
    config = config or EncoderConfig(**SAPIENS, weights=weights)
    with pytest.warns(DeprecationWarning):
        return FrozenBodyEncoder(config)


def test_the_plain_vit_has_the_size_of_sapiens() -> None:
    with torch.device("meta"):
        vit = PlainVit(EncoderConfig(kind="vit", image_size=1024, patch_size=16, channels=1536, depth=40, num_heads=24))
    assert sum(p.numel() for p in vit.parameters()) == 1_140_736_512


def test_padding_is_white_and_centred() -> None:
    padded = square_on_white(torch.zeros(1, 3, 40, 20), 40)
    assert bool((padded[..., :10] == 1).all()) and bool((padded[..., 30:] == 1).all())
    assert bool((padded[..., 10:30] == 0).all())


def test_small_encoder_tokens_run_row_by_row() -> None:
    config = EncoderConfig(kind="small", image_size=64, patch_size=16, channels=8, depth=0, num_heads=2)
    encoder = SmallEncoder(config)
    image = torch.ones(1, 3, 64, 64)
    changed = image.clone()
    changed[..., 36:44, 4:12] = 0.0  # third row, first column of patches
    difference = (encoder(changed) - encoder(image)).abs().sum(-1)[0]
    assert int(difference.argmax()) == 8


def test_impossible_encoders_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of patch"):
        EncoderConfig(kind="small", image_size=65, patch_size=16, channels=8, depth=1, num_heads=2)
    with pytest.raises(ConfigError, match="taps"):
        EncoderConfig(**DINO, taps=(4,))
