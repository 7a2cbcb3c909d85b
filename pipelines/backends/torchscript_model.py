"""TorchScript files of the user's: loading with clear errors, and the number type for a device."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.roles import BackendSpec


def load_torchscript(path: Path, spec: BackendSpec) -> torch.jit.ScriptModule:
    """The module in evaluation mode on the spec's device, in `run_dtype`."""
    if spec.device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError(f"backend {spec.name!r}: device {spec.device!r} is asked for, but torch sees no GPU")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the published files have no other form
            module = torch.jit.load(str(path), map_location=spec.device)
    except (RuntimeError, ValueError) as error:
        raise BackendError(
            f"backend {spec.name!r}: {path} is not a TorchScript file (nor are weights alone): {error}"
        ) from error
    return module.eval().to(run_dtype(spec))


def run_dtype(spec: BackendSpec) -> torch.dtype:
    """bfloat16 on a GPU, float32 elsewhere."""
    return torch.bfloat16 if spec.device.startswith("cuda") else torch.float32
