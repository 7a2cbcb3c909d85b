"""Importing a released checkpoint, from file to a checkpoint folder that builds a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from safetensors.torch import load_file, save_file

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.config_json import from_json
from lhmforge.datasets.errors import CheckpointError
from lhmforge.datasets.loader import LoaderConfig
from lhmforge.lhm_model.checkpoint import read_record, verify_checkpoint
from lhmforge.lhm_model.checkpoint_read import initial_model
from lhmforge.lhm_model.config import EncoderConfig, ModelConfig
from lhmforge.lhm_model.model import LHM
from lhmforge.lhm_model.query_points import sample_query_points
from lhmforge.lhm_model.release_import import import_checkpoint, release_config
from lhmforge.lhm_model.weights import to_release_names


@pytest.fixture
def release_like(toy_config: ModelConfig) -> ModelConfig:
    """The toy model with encoders of the release's kinds."""
    return replace(
        toy_config,
        body_encoder=EncoderConfig(kind="sapiens", image_size=32, patch_size=16, channels=32, depth=1, num_heads=2),
        head_encoder=EncoderConfig(
            kind="dinov2", image_size=28, patch_size=14, channels=16, depth=2, num_heads=2, num_registers=4, taps=(0, 1)
        ),
    )


@pytest.fixture
def released(release_like: ModelConfig, toy_body: BodyModel, tmp_path: Path) -> Path:
    config = release_config(release_like)
    config = replace(config, body_encoder=replace(config.body_encoder, kind="vit", depth=0))
    torch.manual_seed(3)
    tensors = to_release_names(LHM(config, toy_body).named_parameters())
    tensors["renderer.smplx_model.vertex_num"] = torch.zeros(1)
    save_file(tensors, tmp_path / "released.safetensors")
    return tmp_path / "released.safetensors"


def test_the_folder_is_a_checkpoint_in_compat_mode(
    released: Path, release_like: ModelConfig, toy_body: BodyModel, tmp_path: Path
) -> None:
    imported = import_checkpoint(released, release_like, toy_body, tmp_path / "out")
    assert imported.report.unexpected == ("renderer.smplx_model.vertex_num",) and not imported.points_given
    record = verify_checkpoint(tmp_path / "out")
    config = from_json(ModelConfig, record.model_config)
    assert config.compat and config.head_token_shrinkage == 0.0 and config.body_encoder.kind == "sapiens"
    state = load_file(tmp_path / "out" / "model.safetensors")
    torch.testing.assert_close(
        state["transformer.blocks.0.body.qkv.weight"][:32],
        load_file(released)["transformer.layers.0.body_dit.attn.to_q.weight"],
    )


def test_an_import_is_evaluated_and_fine_tuned(
    released: Path, release_like: ModelConfig, toy_body: BodyModel, tmp_path: Path
) -> None:
    """It says how pictures are to be cut, and a new run takes its weights and points, with or without a mask token."""
    folder = import_checkpoint(released, release_like, toy_body, tmp_path / "out").folder
    sampling = from_json(LoaderConfig, read_record(folder).run_config["loader"])
    assert sampling.source_size == (504, 840) and sampling.head_size == release_like.head_encoder.image_size
    runnable = replace(release_like, body_encoder=replace(release_like.body_encoder, kind="vit"), point_seed=4)
    model = initial_model(folder, replace(runnable, head_token_shrinkage=0.5), toy_body)
    state, stored = model.state_dict(), load_file(folder / "model.safetensors")
    assert set(state) - set(stored) == {"head_mask_token"}
    assert all(torch.equal(state[name], value) for name, value in stored.items())
    with pytest.raises(CheckpointError, match=r"does not fit.*missing"):
        initial_model(folder, replace(runnable, num_blocks=release_like.num_blocks + 1), toy_body)


def test_the_released_points_are_taken_over(
    released: Path, release_like: ModelConfig, toy_body: BodyModel, tmp_path: Path
) -> None:
    points = sample_query_points(toy_body, replace(release_like, point_seed=9))
    positions = points.interpolate(toy_body.v_template).numpy()
    trimesh.PointCloud(positions).export(tmp_path / "1_96.ply")
    import_checkpoint(released, release_like, toy_body, tmp_path / "out", point_file=tmp_path / "1_96.ply")
    state = load_file(tmp_path / "out" / "model.safetensors")
    found = (toy_body.v_template[state["query_vertex_ids"]] * state["query_barycentric"][..., None]).sum(1)
    np.testing.assert_allclose(found.numpy(), positions, atol=1e-4)


def test_what_does_not_fill_the_model_is_refused_with_the_list(
    released: Path, release_like: ModelConfig, toy_body: BodyModel, tmp_path: Path
) -> None:
    tensors = load_file(released)
    del tensors["motion_embed_mlp.0.bias"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"modulation\.hidden\.bias"):
        import_checkpoint(tmp_path / "less.safetensors", release_like, toy_body, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    import_checkpoint(tmp_path / "less.safetensors", release_like, toy_body, tmp_path / "out", allow_missing=True)
    with pytest.raises(CheckpointError, match="exists already"):
        import_checkpoint(released, release_like, toy_body, tmp_path / "out")
    with pytest.raises(CheckpointError, match="wrong shape"):
        import_checkpoint(
            released, replace(release_like, gaussian_head=replace(release_like.gaussian_head, hidden=(16,))),
            toy_body, tmp_path / "other", allow_missing=True,
        )  # fmt: skip
