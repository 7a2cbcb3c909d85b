"""Keypoints: Sapiens2 and ViTPose from a local folder of the user's, through the package transformers.

`spec.weights` is a folder as `save_pretrained` writes it: config.json and safetensors files; nothing is fetched.

| backend  | class                     | input [B, 3, H, W]          | heatmaps [B, K, H / 4, W / 4] |
|---|---|---|---|
| sapiens2 | Sapiens2ForPoseEstimation | 1024x768 (config's size)    | K = 308 (Goliath)             |
| vitpose  | VitPoseForPoseEstimation  | 256x192 (backbone's size)   | K = 17 (COCO) or 133          |

Both take RGB with ImageNet's mean and deviation, boxes padded 1.25 times, and are decoded by UDP with DARK refinement.
ViTPose+ (several experts) is asked as its first expert, COCO. bfloat16 on a GPU, float32 elsewhere.
Xu et al., "ViTPose: Simple Vision Transformer Baselines for Human Pose Estimation" (2022).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from lhmforge.datasets.codecs import decode_json
from lhmforge.datasets.errors import BackendError, ShardError
from lhmforge.datasets.records import Keypoints, Track
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.topdown_keypoints import estimate_topdown
from lhmforge.pipelines.backends.torchscript_model import run_dtype
from lhmforge.pipelines.backends.weights import digest, user_folder
from lhmforge.pipelines.topdown import Crop, decode_heatmaps, normalise

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """What differs between the two model families."""

    class_name: str
    model_type: str  # as in config.json


_FAMILIES = {
    "sapiens2": _Family(class_name="Sapiens2ForPoseEstimation", model_type="sapiens2"),
    "vitpose": _Family(class_name="VitPoseForPoseEstimation", model_type="vitpose"),
}


class TransformersKeypoints:
    """`KeypointEstimator`; the folder is loaded at the first track."""

    def __init__(self, spec: BackendSpec) -> None:
        self._spec = spec
        self._family = _FAMILIES[spec.name]
        self._folder = user_folder(spec, "keypoints", needs=("config.json",))
        self._model: Any = None

    def estimate(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], track: Track) -> Keypoints:
        if self._model is None:
            self._model = _load(self._folder, self._family, self._spec)
        height, width = _input_size(self._model.config)

        def infer(crops: Sequence[Crop]) -> list[Float32[np.ndarray, "K 3"]]:
            heatmaps = self._heatmaps(np.stack([normalise(crop.picture, _MEAN, _STD) for crop in crops]))
            return [decode_heatmaps(maps, width=width, height=height) for maps in heatmaps]

        return estimate_topdown(
            frames, track, infer,
            width=width, height=height, batch_size=self._spec.batch_size, what=f"the model in {self._folder}",
        )  # fmt: skip

    def weight_digests(self) -> Sequence[str]:
        files = [self._folder / "config.json", *sorted(self._folder.glob("*.safetensors"))]
        return tuple(digest(path) for path in files)

    def _heatmaps(self, pictures: Float32[np.ndarray, "B 3 H W"]) -> Float32[np.ndarray, "B K h w"]:
        batch = torch.from_numpy(pictures).to(self._spec.device, run_dtype(self._spec))
        experts = getattr(getattr(self._model.config, "backbone_config", None), "num_experts", 1)
        with torch.inference_mode():
            if experts > 1:
                first = torch.zeros(len(batch), dtype=torch.long, device=batch.device)
                output = self._model(batch, dataset_index=first)
            else:
                output = self._model(batch)
        return np.asarray(output.heatmaps.float().cpu().numpy(), np.float32)


def sapiens2_keypoints(spec: BackendSpec) -> TransformersKeypoints:
    """Factory; raises `BackendError` that says where the weights come from, or which extra is not installed."""
    return _checked(spec)


def vitpose_keypoints(spec: BackendSpec) -> TransformersKeypoints:
    """Factory; raises `BackendError` that says where the weights come from, or which extra is not installed."""
    return _checked(spec)


def _checked(spec: BackendSpec) -> TransformersKeypoints:
    backend = TransformersKeypoints(spec)
    if importlib.util.find_spec("transformers") is None:
        raise BackendError(
            f"the keypoints backend {spec.name!r} needs the package transformers: pip install 'lhmforge[{spec.name}]'"
        )
    return backend


def _load(folder: Path, family: _Family, spec: BackendSpec) -> Any:
    """The model in evaluation mode; refuses a folder of another model and one that lacks some of the weights."""
    if spec.device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError(f"backend {spec.name!r}: device {spec.device!r} is asked for, but torch sees no GPU")
    config = _read_config(folder)
    if config != family.model_type:
        raise BackendError(
            f"backend {spec.name!r}: {folder}/config.json describes a {config!r} model, not {family.model_type!r}"
        )
    import transformers
    from safetensors import SafetensorError

    model_class = getattr(transformers, family.class_name, None)
    if model_class is None:
        raise BackendError(
            f"transformers {transformers.__version__} has no {family.class_name}; pip install 'lhmforge[{spec.name}]'"
        )
    try:
        model, report = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=run_dtype(spec)
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BackendError(f"backend {spec.name!r}: {folder} cannot be loaded: {error}") from error
    lost = sorted(map(str, report["missing_keys"]))  # transformers would go on with random values there
    if lost:
        raise BackendError(
            f"backend {spec.name!r}: {folder} lacks {len(lost)} tensors of {family.class_name}: {', '.join(lost[:5])}"
        )
    return model.eval().to(spec.device)


def _read_config(folder: Path) -> str:
    path = folder / "config.json"
    try:
        content = decode_json(path.read_bytes(), what=str(path))
    except ShardError as error:
        raise BackendError(f"{path} is not a JSON file: {error}") from error
    return str(content.get("model_type", "")) if isinstance(content, dict) else ""


def _input_size(config: Any) -> tuple[int, int]:
    """Height and width; ViTPose keeps them in its backbone's config."""
    size = getattr(config, "backbone_config", config).image_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
