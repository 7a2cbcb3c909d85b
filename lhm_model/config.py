"""What a model is made of: one frozen configuration and the named presets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from lhmforge.datasets.errors import ConfigError

EncoderKind = Literal["small", "vit", "sapiens", "dinov2"]
Architecture = Literal["body_head", "plain"]
Skinning = Literal["nearest", "barycentric", "diffused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """One image encoder; it sees a square of `image_size` pixels and yields (image_size / patch_size)^2 tokens.

    `small`: a trainable convolution + transformer of our own. `dinov2`: DINOv2 with registers and the fusion of the
    blocks `taps` (trainable). `sapiens`: a frozen TorchScript file. `vit`: the plain ViT that such a file holds, with
    random weights, for timing without the file. `weights` is the user's file ("" = random start, not for `sapiens`).
    """

    kind: EncoderKind
    image_size: int
    patch_size: int
    channels: int
    depth: int
    num_heads: int
    num_registers: int = 0
    taps: tuple[int, ...] = ()
    weights: str = ""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ConfigError(f"encoder: image_size {self.image_size} is not a multiple of patch {self.patch_size}")
        if self.channels % self.num_heads:
            raise ConfigError(f"encoder: channels {self.channels} is not a multiple of num_heads {self.num_heads}")
        if (self.kind == "dinov2") != bool(self.taps) or any(not 0 <= tap < self.depth for tap in self.taps):
            raise ConfigError(
                f"encoder {self.kind}: taps {self.taps} must be block indices below {self.depth} (dinov2)"
            )

    @property
    def frozen(self) -> bool:
        return self.kind in ("sapiens", "vit")

    @property
    def num_tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianHeadConfig:
    """Bounds of the decoded Gaussians; metres.

    The upper bound of a scale is `clip_start_m` until step `clip_start_step`, then rises linearly to `clip_end_m` at
    step `clip_end_step`. An offset lies within +-`offset_range_m` / 2 per axis.
    """

    hidden: tuple[int, ...] = (512, 512)
    offset_range_m: float = 1.0
    clip_start_step: int = 100
    clip_start_m: float = 0.01
    clip_end_m: float = 0.05
    clip_end_step: int = 3000
    initial_scale_log: float = -5.0
    initial_opacity: float = 0.1
    upper_body_clip_m: float = 0.02  # used in compat mode only

    def __post_init__(self) -> None:
        if not self.clip_start_step < self.clip_end_step:
            raise ConfigError(
                f"gaussian head: clip_start_step {self.clip_start_step} must be below {self.clip_end_step}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Structure of one LHM.

    `compat` reproduces the public release: the context feed-forward of every block but the last is added twice, a
    point takes the attributes of its nearest vertex, the way back from the canonical pose blends inverse transforms,
    and scales of upper-body points are clamped. The clean mode (default) does none of this.

    `skinning` (None: `nearest` in compat mode, else `barycentric`) says where a Gaussian's joint weights come from;
    `diffused` takes them from a volume around the body (`volume_spacing_m` between its voxels), except at hands and
    face. `unturned_points` is a user's npz with `masks`, one number per body vertex: Gaussians whose nearest vertex
    has a positive one never rotate with the body (the release's `human_prior_constrain.npz`).
    """

    name: str
    width: int
    num_heads: int
    num_blocks: int
    num_points: int
    body_encoder: EncoderConfig
    head_encoder: EncoderConfig
    head_point_fraction: float = 0.25
    point_seed: int = 0
    num_frequencies: int = 8
    canonical_leg_spread_deg: float = 20.0
    gaussian_head: GaussianHeadConfig = field(default_factory=GaussianHeadConfig)
    architecture: Architecture = "body_head"
    head_token_shrinkage: float = 0.5  # at most this share of head tokens is masked in training; 0 = off
    checkpoint_blocks: bool = False  # recompute each block in the backward pass; only where memory needs it
    compat: bool = False
    skinning: Skinning | None = None
    volume_spacing_m: float = 0.02
    unturned_points: str = ""

    def __post_init__(self) -> None:
        if not 0.005 <= self.volume_spacing_m <= 0.1:
            raise ConfigError(f"model: volume_spacing_m {self.volume_spacing_m} must lie in 0.005 .. 0.1")
        if self.width % self.num_heads:
            raise ConfigError(f"model: width {self.width} is not a multiple of num_heads {self.num_heads}")
        if not 0.0 < self.head_point_fraction < 1.0:
            raise ConfigError(f"model: head_point_fraction {self.head_point_fraction} must lie between 0 and 1")
        if not 0.0 <= self.head_token_shrinkage < 1.0:
            raise ConfigError(f"model: head_token_shrinkage {self.head_token_shrinkage} must lie in 0 .. 1")
        if self.num_blocks < 1 or self.num_head_points < 1 or self.num_body_points < 1:
            raise ConfigError("model: at least one block, one head point and one body point are needed")

    @property
    def num_body_points(self) -> int:
        return int((1.0 - self.head_point_fraction) * self.num_points)

    @property
    def num_head_points(self) -> int:
        return self.num_points - self.num_body_points

    @property
    def skinning_kind(self) -> Skinning:
        """`skinning`, or what the mode does without it."""
        return self.skinning or ("nearest" if self.compat else "barycentric")

    @property
    def context_channels(self) -> int:
        """Channels of the joint context; the narrower encoder's tokens are zero-padded to it."""
        return max(self.body_encoder.channels, self.head_encoder.channels)


PRESET_NAMES = ("tiny", "mini", "0.5b", "0.7b", "1b")


def preset(name: str) -> ModelConfig:
    """The named configuration; `tiny` trains on a CPU, the others are the paper's. Raises `ConfigError`."""
    if name == "tiny":
        return _tiny()
    blocks_and_points = {"mini": (2, 20_000), "0.5b": (5, 40_000), "0.7b": (10, 40_000), "1b": (15, 40_000)}
    if name not in blocks_and_points:
        raise ConfigError(f"unknown preset {name!r}; valid: {', '.join(PRESET_NAMES)}")
    num_blocks, num_points = blocks_and_points[name]
    return ModelConfig(
        name=name,
        width=1024,
        num_heads=16,
        num_blocks=num_blocks,
        num_points=num_points,
        body_encoder=EncoderConfig(
            kind="sapiens", image_size=1024, patch_size=16, channels=1536, depth=40, num_heads=24
        ),
        head_encoder=EncoderConfig(
            kind="dinov2", image_size=448, patch_size=14, channels=1024, depth=24, num_heads=16, num_registers=4,
            taps=(4, 11, 17, 23),
        ),
    )  # fmt: skip


def with_random_body_encoder(config: ModelConfig) -> ModelConfig:
    """The same model with a random body encoder of the real size: for timing, where no weight file is at hand."""
    return replace(config, body_encoder=replace(config.body_encoder, kind="vit", weights=""))


def with_encoder_weights(config: ModelConfig, *, body: str = "", head: str = "") -> ModelConfig:
    """The same model with the user's encoder files; an empty path leaves the configured one."""
    encoders = config.body_encoder, config.head_encoder
    body_encoder, head_encoder = (
        replace(encoder, weights=path or encoder.weights) for encoder, path in zip(encoders, (body, head), strict=True)
    )
    return replace(config, body_encoder=body_encoder, head_encoder=head_encoder)


def _tiny() -> ModelConfig:
    return ModelConfig(
        name="tiny",
        width=128,
        num_heads=2,
        num_blocks=2,
        num_points=2048,
        body_encoder=EncoderConfig(kind="small", image_size=224, patch_size=16, channels=128, depth=2, num_heads=4),
        head_encoder=EncoderConfig(kind="small", image_size=96, patch_size=12, channels=96, depth=2, num_heads=4),
        # Few, large splats whose bound is wide open after 40 steps: a CPU run ends where the paper's schedule begins.
        gaussian_head=GaussianHeadConfig(
            hidden=(128, 128),
            clip_start_step=1,
            clip_start_m=0.03,
            clip_end_step=40,
            initial_scale_log=-4.0,
            initial_opacity=0.5,
        ),
    )
