"""The one table from (role, name) to a lazy backend factory."""

from __future__ import annotations

import importlib
from typing import Any

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.roles import BackendSpec

# (role, name) -> "module:factory"; a factory takes the spec and returns an object of the role's protocol.
BACKENDS: dict[tuple[str, str], str] = {
    ("shots", "pyscenedetect"): "pyscenedetect:pyscenedetect_shots",
    ("shots", "transnetv2"): "transnetv2:transnetv2_shots",
    ("detector", "ssd_mobilenet"): "ssd_mobilenet:ssd_mobilenet_detector",
    ("tracker", "bytetrack"): "bytetrack:bytetrack_tracker",
    ("keypoints", "mediapipe"): "mediapipe_keypoints:mediapipe_keypoints",
    ("matting", "modnet"): "modnet:modnet_matting",
    ("detector", "onnx"): "onnx_detector:onnx_detector",
    ("matting", "onnx"): "user_matting:onnx_matting",
    ("matting", "torchscript"): "user_matting:torchscript_matting",
    ("matting", "rvm_onnx"): "user_matting:rvm_onnx_matting",
    ("matting", "sam2"): "sam2_matting:sam2_matting",
    ("keypoints", "sapiens"): "sapiens:sapiens_keypoints",
    ("keypoints", "sapiens2"): "transformers_pose:sapiens2_keypoints",
    ("keypoints", "vitpose"): "transformers_pose:vitpose_keypoints",
    ("keypoints", "mmpose"): "mmpose_keypoints:mmpose_keypoints",
    ("keypoints", "rtmw_onnx"): "rtmw_onnx:rtmw_onnx_keypoints",
    ("body_init", "npz"): "npz_body_init:npz_body_init",
    ("face", "sface"): "sface:sface_embedder",
    ("shots", "fake"): "fake:fake_shots",
    ("detector", "fake"): "fake:fake_detector",
    ("tracker", "fake"): "fake:fake_tracker",
    ("matting", "fake"): "fake:fake_matting",
    ("keypoints", "fake"): "fake:fake_keypoints",
    ("body_init", "fake"): "fake:fake_body_init",
    ("face", "fake"): "fake:fake_face",
}


def backend_names(role: str) -> list[str]:
    """The names that a recipe may give for a role, sorted."""
    return sorted(name for (known_role, name) in BACKENDS if known_role == role)


def load_backend(role: str, spec: BackendSpec) -> Any:
    """Builds the backend `spec.name` for `role`; raises `BackendError` naming the legal choices or what is missing."""
    entry = BACKENDS.get((role, spec.name))
    if entry is None:
        raise BackendError(
            f"no {role} backend is named {spec.name!r}; known: {', '.join(backend_names(role)) or 'none'}"
        )
    module_name, _, factory_name = entry.partition(":")
    module = importlib.import_module(f"lhmforge.pipelines.backends.{module_name}")
    return getattr(module, factory_name)(spec)
