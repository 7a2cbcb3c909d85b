"""The cost of a step, as a study asks for it before it starts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lhmforge.jobs.config import TrainConfig
from lhmforge.jobs.step_cost import measure_step_seconds


def test_a_step_is_measured_on_this_device(small_config: TrainConfig) -> None:
    seconds = measure_step_seconds(small_config)
    assert seconds is not None and seconds > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without the device")
def test_the_cost_on_a_device_that_is_not_here_is_unknown(small_config: TrainConfig) -> None:
    config = replace(small_config, hardware=replace(small_config.hardware, device="cuda", num_workers=1))
    assert measure_step_seconds(config) is None
