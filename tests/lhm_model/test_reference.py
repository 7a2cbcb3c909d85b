"""Reference tensors of the public release, and files of the same kind that we write ourselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lhmforge.datasets.errors import CheckpointError
from lhmforge.lhm_model.reference import ReferenceModel, ReferenceSizes, run_reference, verify_reference
from lhmforge.lhm_model.token_layout import TokenLayout
from lhmforge.lhm_model.weights import to_release_names

SIZES = ReferenceSizes(
    width=24,
    num_heads=3,
    num_blocks=3,
    feed_forward=48,
    body_channels=20,
    head_channels=12,
    context_channels=20,
    modulation_hidden=10,
    num_frequencies=4,
    num_taps=3,
    gaussian_sizes=(24, 16, 24),
    layout=TokenLayout(body_points=11, head_points=6, body_tokens=9, head_tokens=4),
    steps=(0, 200, 5000),
)


def test_the_release_is_matched(golden_reference: Path) -> None:
    rows = verify_reference(golden_reference)
    assert len(rows) == 20
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]
    assert max(row.relative for row in rows) < 2e-5


def test_a_changed_weight_is_noticed(golden_reference: Path, tmp_path: Path) -> None:
    tensors = load_file(golden_reference)
    tensors["weight.transformer.layers.0.body_dit.ff_context.net.2.bias"] += 0.05
    changed = tmp_path / "changed.safetensors"
    save_file(tensors, changed, metadata={"num_head_points": "20"})
    failed = {row.name for row in verify_reference(changed) if not row.passed}
    assert "tokens" in failed and "modulation" not in failed


def _write(path: Path, sizes: ReferenceSizes = SIZES) -> Path:
    torch.manual_seed(0)
    model = ReferenceModel(sizes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    layout = sizes.layout
    tensors = {
        f"in.head_tap{i}": torch.randn(2, layout.head_tokens, sizes.head_channels) for i in range(sizes.num_taps)
    }
    tensors["in.points"] = torch.rand(2, layout.points, 3) - 0.5
    tensors["in.body_tokens"] = torch.randn(2, layout.body_tokens, sizes.body_channels)
    outputs = run_reference(model, tensors, sizes)
    for name, tensor in to_release_names(model.named_parameters()).items():
        name = name.removeprefix("encoder.").replace("renderer.gs_net", "gs_net")
        tensors["weight." + name.replace("renderer.mlp_net.layers", "gs_mlp")] = tensor
    tensors |= {f"out.{name}": tensor.contiguous() for name, tensor in outputs.items()}
    save_file(tensors, path, metadata={"num_head_points": str(layout.head_points)})
    return path


def test_all_sizes_are_read_from_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path / "own.safetensors")
    assert {row.name for row in verify_reference(path)} >= {"tokens", "gs_features", "step200.scaling"}
    assert all(row.relative == 0.0 for row in verify_reference(path))
    wide = replace(SIZES, head_channels=28, context_channels=28, num_taps=2)
    assert all(row.passed for row in verify_reference(_write(tmp_path / "wide.safetensors", wide)))


def test_files_that_are_no_reference_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such"):
        verify_reference(tmp_path / "absent.safetensors")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(_write(tmp_path / "own.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="torn"):
        verify_reference(torn)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not a reference file"):
        verify_reference(tmp_path / "other.safetensors")
    tensors = load_file(tmp_path / "own.safetensors")
    del tensors["weight.transformer.norm.bias"]
    save_file(tensors, tmp_path / "less.safetensors", metadata={"num_head_points": "6"})
    with pytest.raises(CheckpointError, match=r"transformer\.norm\.bias"):
        verify_reference(tmp_path / "less.safetensors")


@pytest.mark.parametrize(
    "sizes",
    [
        ReferenceSizes(  # odd everywhere, one block (which has no context output), one tap, two hidden layers
            width=15,
            num_heads=3,
            num_blocks=1,
            feed_forward=31,
            body_channels=9,
            head_channels=7,
            context_channels=9,
            modulation_hidden=5,
            num_frequencies=1,
            num_taps=1,
            gaussian_sizes=(15, 11, 13, 17),
            layout=TokenLayout(body_points=7, head_points=1, body_tokens=5, head_tokens=3),
            steps=(77,),
        ),
        ReferenceSizes(  # more head than body points and tokens, one head, no hidden layer
            width=14,
            num_heads=1,
            num_blocks=2,
            feed_forward=14,
            body_channels=6,
            head_channels=11,
            context_channels=11,
            modulation_hidden=3,
            num_frequencies=9,
            num_taps=5,
            gaussian_sizes=(14, 14),
            layout=TokenLayout(body_points=2, head_points=9, body_tokens=1, head_tokens=13),
            steps=(0, 101, 2999, 3001),
        ),
    ],
    ids=["odd", "lopsided"],
)
def test_nothing_of_the_usual_sizes_is_assumed(sizes: ReferenceSizes, tmp_path: Path) -> None:
    path = _write(tmp_path / "own.safetensors", sizes)
    rows = verify_reference(path)
    assert len(rows) == 5 + 5 * len(sizes.steps) and all(row.relative < 1e-5 for row in rows)
    tensors = load_file(path)
    name = "weight.transformer.layers.0.head_dit.attn.to_v.weight"
    tensors[name] = tensors[name] + 0.5
    changed = tmp_path / "changed.safetensors"
    save_file(tensors, changed, metadata={"num_head_points": str(sizes.layout.head_points)})
    assert not all(row.passed for row in verify_reference(changed))
