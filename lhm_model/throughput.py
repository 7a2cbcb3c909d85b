"""How busy a GPU is: the operations that one training sample needs, against what the device can do.

Model FLOPs utilisation (MFU, arXiv 2204.02311): operations of the model itself, nothing recomputed and no renderer or
loss network counted, over time and over the vendor's dense bfloat16 rate.
"""

from __future__ import annotations

import itertools

import torch

from lhmforge.lhm_model.config import EncoderConfig, ModelConfig
from lhmforge.lhm_model.summary import transformer_flops, vit_flops

# Dense bfloat16 operations per second, from the vendors' data sheets; the first name that the device's name contains.
_PEAK_BF16 = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
_TRAINED = 3.0  # a backward pass costs two forward passes


def training_flops(config: ModelConfig) -> float:
    """Operations of one training sample, forward and backward; frozen encoders only run forward."""
    sizes = (config.width, *config.gaussian_head.hidden, config.width)
    perceptron = sum(2.0 * before * after for before, after in itertools.pairwise(sizes))
    trained = transformer_flops(config, skip_unused_queries=True).total + config.num_points * perceptron
    return _TRAINED * trained + _encoder_flops(config.body_encoder) + _encoder_flops(config.head_encoder)


def _encoder_flops(encoder: EncoderConfig) -> float:
    extra = 1 + encoder.num_registers if encoder.kind == "dinov2" else 0
    flops = vit_flops(encoder.num_tokens + extra, encoder.channels, encoder.depth)
    return flops if encoder.frozen else _TRAINED * flops


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 operations per second of a CUDA device; None where the data sheet is not known here."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in _PEAK_BF16.items() if part in name), None)


def utilisation(config: ModelConfig, samples_per_s: float, device: torch.device) -> float | None:
    """MFU of one device that trains `samples_per_s` samples; None where its peak is not known."""
    peak = peak_flops(device)
    return None if peak is None else samples_per_s * training_flops(config) / peak
