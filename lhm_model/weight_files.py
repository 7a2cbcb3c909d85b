"""Reads named tensors from a weight file, without ever running code from it."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lhmforge.datasets.errors import CheckpointError


def read_weight_file(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a .safetensors or torch file; raises `CheckpointError` for anything else."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weight file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise CheckpointError(f"{path}: torn or not a readable weight file ({error})") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path}: expected a flat table of tensors (a state dict)")
    return {str(name): value for name, value in loaded.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The free-form metadata of a .safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: torn or not a safetensors file ({error})") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: torn or not a safetensors file ({error})") from error
