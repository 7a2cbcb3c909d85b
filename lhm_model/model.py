"""LHM: one image of a person -> Gaussians on a canonical body -> posed -> rendered (arXiv 2503.10625)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lhmforge.datasets.batch import Batch, BodyBatch
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import CheckpointError
from lhmforge.lhm_model.config import ModelConfig
from lhmforge.lhm_model.gaussians import CanonicalGaussians, PosedGaussians, RenderedViews
from lhmforge.lhm_model.network import LHMNetwork
from lhmforge.lhm_model.query_points import QueryPoints, sample_query_points
from lhmforge.lhm_model.render import render_gaussians
from lhmforge.lhm_model.skinning import Skinner, SkinningConfig

POINT_KEYS = ("query_vertex_ids", "query_barycentric", "query_topology")


@dataclass(frozen=True, slots=True, kw_only=True)
class LHMOutput:
    """All that a loss may look at."""

    canonical: CanonicalGaussians
    posed: PosedGaussians
    views: RenderedViews


class LHM(LHMNetwork):
    """The network on one body, with its query points, skinning and rendering.

    Without `query_points` the set is drawn from `config.point_seed`. The set is part of the state dict, and loading a
    state with another set or another mesh raises `CheckpointError`; `LHM.from_state` takes the set from the state.
    """

    query_vertex_ids: Tensor
    query_barycentric: Tensor
    query_topology: Tensor

    def __init__(self, config: ModelConfig, body: BodyModel, query_points: QueryPoints | None = None) -> None:
        super().__init__(config)
        points = sample_query_points(body, config) if query_points is None else query_points
        if (points.num_points, points.num_body) != (config.num_points, config.num_body_points):
            raise CheckpointError(
                f"query points: {points.num_points} with {points.num_body} on the body; the configuration "
                f"{config.name!r} has {config.num_points} with {config.num_body_points}"
            )
        self.points_digest, self.topology_digest = points.digest, points.topology_digest
        self.skinner = Skinner(body, points, skinning_config(config))
        self.register_buffer("query_vertex_ids", points.vertex_ids.clone())
        self.register_buffer("query_barycentric", points.barycentric.clone())
        self.register_buffer("query_topology", _digest_tensor(points.topology_digest))
        self.register_load_state_dict_pre_hook(_check_points)  # type: ignore[no-untyped-call]

    @classmethod
    def from_state(cls, config: ModelConfig, body: BodyModel, state: Mapping[str, Tensor]) -> LHM:
        """A model with the weights AND the query points of `state`; raises `CheckpointError` naming what is wrong."""
        model = cls(config, body, query_points_of(state, config.num_body_points))
        own = {name: tensor.shape for name, tensor in model.state_dict().items()}
        wrong = [name for name in own.keys() & state.keys() if own[name] != state[name].shape]
        if own.keys() != state.keys() or wrong:
            raise CheckpointError(
                f"the checkpoint is not of a {config.name!r} model: missing {sorted(own.keys() - state.keys())[:5]}, "
                f"unexpected {sorted(state.keys() - own.keys())[:5]}, wrong shape {sorted(wrong)[:5]}"
            )
        model.load_state_dict(dict(state))
        return model

    def forward(self, batch: Batch, backend: str = "auto") -> LHMOutput:
        """Gaussians of the source image, posed and rendered as each target view; `backend` names the renderer."""
        canonical = self.encode(
            source_image=batch.source_image, head_image=batch.head_image, head_valid=batch.head_valid
        )
        posed = self.pose(canonical, batch.body)
        height, width = batch.target_image.shape[-2:]
        views = render_gaussians(
            posed,
            intrinsics=batch.intrinsics,
            world_to_camera=batch.world_to_camera,
            width=width,
            height=height,
            background=batch.background,
            backend=backend,
        )
        return LHMOutput(canonical=canonical, posed=posed, views=views)

    def encode(
        self,
        *,
        source_image: Float[Tensor, "B 3 H W"],
        head_image: Float[Tensor, "B 3 K K"],
        head_valid: Bool[Tensor, " B"],
    ) -> CanonicalGaussians:
        """Canonical Gaussians of the person, one per query point; see `LHMNetwork.decode`."""
        return self.decode(
            source_image=source_image,
            head_image=head_image,
            head_valid=head_valid,
            canonical_points=self.skinner.canonical,
            tight=self.skinner.upper_body if self.config.compat else None,
        )

    def pose(self, canonical: CanonicalGaussians, body: BodyBatch) -> PosedGaussians:
        """The Gaussians in every pose of `body`, in world coordinates."""
        posed: PosedGaussians = self.skinner(canonical, body)
        return posed


def skinning_config(config: ModelConfig) -> SkinningConfig:
    """How the Gaussians of a model follow the body."""
    return SkinningConfig(
        kind=config.skinning_kind,
        compat=config.compat,
        leg_spread_deg=config.canonical_leg_spread_deg,
        volume_spacing_m=config.volume_spacing_m,
        unturned_file=config.unturned_points,
    )


def query_points_of(state: Mapping[str, Tensor], num_body: int) -> QueryPoints:
    """The point set stored in a state dict; raises `CheckpointError` when it holds none."""
    missing = [key for key in POINT_KEYS if key not in state]
    if missing:
        raise CheckpointError(f"the checkpoint holds no query points ({', '.join(missing)} missing)")
    return QueryPoints(
        vertex_ids=state["query_vertex_ids"].cpu(),
        barycentric=state["query_barycentric"].float().cpu(),
        num_body=num_body,
        topology_digest=bytes(state["query_topology"].cpu().tolist()).hex(),
    )


def _digest_tensor(digest: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)


def _check_points(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    assert isinstance(module, LHM)
    present = {key: state[prefix + key] for key in POINT_KEYS if prefix + key in state}
    if any(tensor.is_meta for tensor in present.values()):
        return
    stored = query_points_of(present, module.config.num_body_points)
    if stored.topology_digest != module.topology_digest:
        raise CheckpointError(
            f"the checkpoint was trained on a body with topology digest {stored.topology_digest[:16]}, this model "
            f"stands on {module.topology_digest[:16]}: use the body file of the training run"
        )
    if stored.digest != module.points_digest:
        raise CheckpointError(
            f"the checkpoint's query points (digest {stored.digest[:16]}) are not this model's "
            f"({module.points_digest[:16]}); build the model with LHM.from_state, which takes them from the checkpoint"
        )
