"""What the hardware settings refuse."""

from __future__ import annotations

import pytest

from lhmforge.datasets.errors import ConfigError
from lhmforge.jobs.config import HardwareConfig


@pytest.mark.parametrize("settings", [{"num_workers": -1}, {"threads_per_worker": 0}])
def test_counts_must_make_sense(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="hardware"):
        HardwareConfig(**settings)


def test_no_ray_means_a_world_of_one() -> None:
    assert HardwareConfig(num_workers=0).world_size == 1
    assert HardwareConfig(num_workers=3).world_size == 3
