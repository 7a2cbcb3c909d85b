"""The law from reprojection error to expected joint angle error, and that it is found again from its own errors."""

from __future__ import annotations

import numpy as np
import pytest

from lhmforge.datasets.errors import ConfigError
from lhmforge.jobs.uncertainty import fit_law
from lhmforge.pipelines.uncertainty import UncertaintyLaw

BOXES = np.tile(np.array([0, 0, 50, 200], np.float32), (3, 1))


def test_the_law_grows_with_the_error_and_has_ends() -> None:
    law = UncertaintyLaw(scale_rad=2.0, exponent=0.5)
    found = law.expected_rad(np.array([2, 4, np.nan], np.float32), BOXES)
    np.testing.assert_allclose(found[:2], [2 * 0.1, 2 * np.sqrt(0.02)], rtol=1e-5)
    assert found[2] == pytest.approx(2 * np.sqrt(0.05)) and found.dtype == np.float32
    ends = law.expected_rad(np.array([0, 1e4, 1], np.float32), BOXES)
    np.testing.assert_allclose(ends[:2], [2 * np.sqrt(1e-3), 2 * np.sqrt(0.05)], rtol=1e-5)


def test_the_law_is_found_again() -> None:
    rng = np.random.default_rng(0)
    share = np.exp(rng.uniform(np.log(2e-3), np.log(0.04), 4000))
    spread = np.exp(0.3 * rng.normal(size=4000))
    found = fit_law(share, 1.3 * share**0.4 * spread)
    assert found.exponent == pytest.approx(0.4, abs=0.02)
    expected = found.scale_rad * share**found.exponent
    assert (expected**2).mean() == pytest.approx(((1.3 * share**0.4 * spread) ** 2).mean(), rel=1e-6)
    assert fit_law(np.full(5, np.nan), np.full(5, 0.2)) == UncertaintyLaw(scale_rad=0.2, exponent=0.0)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="scale_rad"):
        UncertaintyLaw(scale_rad=0.0)
