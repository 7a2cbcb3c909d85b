"""The pose prior: its resting pose lies inside the joint ranges, is mirror-symmetric, and lets the arms hang."""

from __future__ import annotations

import numpy as np

from lhmforge.datasets.body.toy import toy_body_arrays
from lhmforge.pipelines.fitting.priors import body_priors
from lhmforge.pipelines.fitting.rotations import exp_rotation

LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW = 16, 17, 18


def test_the_resting_pose_lies_inside_the_ranges() -> None:
    priors = body_priors()
    assert (priors.low[1:] <= priors.mean[1:]).all() and (priors.mean[1:] <= priors.high[1:]).all()


def test_left_and_right_mirror_each_other() -> None:
    priors = body_priors()
    np.testing.assert_allclose(priors.mean[RIGHT_SHOULDER], priors.mean[LEFT_SHOULDER] * [1, -1, -1])
    np.testing.assert_allclose(priors.sigma[RIGHT_SHOULDER], priors.sigma[LEFT_SHOULDER])


def test_an_arm_at_rest_hangs_below_its_shoulder() -> None:
    """In the zero pose the arms point sideways (SMPL-X, y up); the prior's pull must not leave them there."""
    arrays = toy_body_arrays()
    joints = arrays["J_regressor"] @ arrays["v_template"]
    arm = joints[LEFT_ELBOW] - joints[LEFT_SHOULDER]
    assert abs(arm[1]) < 0.3 * np.linalg.norm(arm)
    turned = exp_rotation(body_priors().mean[LEFT_SHOULDER][None])[0] @ arm
    assert turned[1] < -0.7 * np.linalg.norm(arm)
