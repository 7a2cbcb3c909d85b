"""How wrong a fit probably is: joint angle error expected from the reprojection error, by a measured law.

The inverse of the solver's normal matrix does not tell: on rendered people with known truth its standard deviations do
not rank frames by their true errors (Spearman -0.07 and -0.02 on two sets of 20 clips) and do worse than a constant.
The size of the reprojection error does rank them (0.31 and 0.35). How it was measured: docs/curation_quality.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from lhmforge.datasets.errors import ConfigError

_SMALLEST, _LARGEST = 1e-3, 0.05  # shares of the box height between which the law was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertaintyLaw:
    """Root mean square joint angle error = `scale_rad` x (reprojection error / box height) ^ `exponent`.

    The defaults hold for the embedded backends; `lhmforge evaluate-curation` prints what fits another set-up.
    """

    scale_rad: float = 1.57
    exponent: float = 0.36

    def __post_init__(self) -> None:
        if self.scale_rad <= 0 or self.exponent < 0:
            raise ConfigError(
                f"uncertainty: scale_rad must be > 0 and exponent >= 0, got {self.scale_rad}, {self.exponent}"
            )

    def expected_rad(
        self, reprojection_px: Float32[np.ndarray, " N"], boxes_px: Float32[np.ndarray, "N 4"]
    ) -> Float32[np.ndarray, " N"]:
        """The expected error of each frame; a frame without any seen point has the largest."""
        share = reprojection_px / np.maximum(boxes_px[:, 3] - boxes_px[:, 1], 1.0)
        share = np.clip(np.nan_to_num(share, nan=_LARGEST), _SMALLEST, _LARGEST)
        result: np.ndarray = self.scale_rad * share**self.exponent
        return result.astype(np.float32)
