"""ONNX Runtime behind one small class: checked inputs, one thread on the CPU, errors that a user can act on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.roles import BackendSpec


class OnnxModel:
    """One loaded ONNX file; `input_names`, `input_shapes` (None: any size) and `output_names` in the file's order.

    On the CPU one thread is used: sums keep their order, so the same input gives the same bytes on every machine size.
    """

    def __init__(self, path: Path, spec: BackendSpec) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as faults

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=_providers(spec, onnxruntime.get_available_providers())
            )
        except (
            faults.Fail,
            faults.InvalidProtobuf,
            faults.InvalidGraph,
            faults.NotImplemented,
            faults.NoSuchFile,
        ) as error:
            raise BackendError(
                f"backend {spec.name!r}: {path} is not an ONNX model that can be run: {error}"
            ) from error
        self.path = path
        inputs = self._session.get_inputs()
        self.input_names = tuple(str(entry.name) for entry in inputs)
        self.input_shapes = tuple(
            tuple(side if isinstance(side, int) else None for side in entry.shape) for entry in inputs
        )
        self.input_types = tuple(str(entry.type) for entry in inputs)
        self.output_names = tuple(str(entry.name) for entry in self._session.get_outputs())

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs, in the order of `output_names`; floats are cast to half where the model wants it."""
        cast = {
            name: feed[name].astype(np.float16) if "float16" in kind else feed[name]
            for name, kind in zip(self.input_names, self.input_types, strict=True)
        }
        return [np.asarray(value) for value in self._session.run(None, cast)]


def _providers(spec: BackendSpec, available: list[str]) -> list[str]:
    if spec.device == "cpu":
        return ["CPUExecutionProvider"]
    if spec.device.startswith("cuda") and "CUDAExecutionProvider" in available:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    raise BackendError(
        f"backend {spec.name!r}: device {spec.device!r} is not offered by the installed ONNX Runtime "
        f"({', '.join(available)}); use device 'cpu' or install onnxruntime-gpu"
    )
