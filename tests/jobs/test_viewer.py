"""The avatar page: sliders turn joints the way their names say, and a real browser shows and poses the avatar."""

from __future__ import annotations

import importlib.util
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lhmforge.datasets.body.builtin_motion import turntable, walk_and_wave
from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel, full_pose
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.body.toy import write_toy_body
from lhmforge.datasets.errors import BackendError
from lhmforge.jobs.pose_controls import CONTROLS, PoseControl, apply_controls
from lhmforge.jobs.viewer import STANDING, AvatarViewer, ViewerConfig
from lhmforge.lhm_model.config import preset
from lhmforge.lhm_model.ply import GaussianCloud
from lhmforge.lhm_model.query_points import sample_query_points
from lhmforge.lhm_model.rig import Rig, RiggedAvatar
from lhmforge.lhm_model.skinning import Skinner, SkinningConfig

_spec = importlib.util.spec_from_file_location("lhmforge_test_browser", Path(__file__).with_name("browser.py"))
assert _spec is not None and _spec.loader is not None
browser = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(browser)

NO_EXPRESSION = np.zeros(0, np.float32)


@pytest.fixture(scope="module")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> RiggedAvatar:
    """The toy body's surface, its head red and the rest blue."""
    body = BodyModel.load(write_toy_body(tmp_path_factory.mktemp("body") / "toy.npz"))
    points = sample_query_points(body, replace(preset("tiny"), num_points=1500))
    skinner = Skinner(body, points, SkinningConfig())
    count = points.num_points
    is_head = np.arange(count) >= points.num_body
    rig = Rig(
        weights=skinner.weights.numpy(),
        joints_rest_m=skinner.joints_template.numpy(),
        parents=np.array(skinner.parents, np.int64),
        expression_directions_m=skinner.exprdirs.numpy(),
        joint_expression_directions_m=skinner.joints_exprdirs.numpy(),
        betas=np.zeros(10, np.float32),
    )
    cloud = GaussianCloud(
        means=skinner.rest.numpy(),
        rotations=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
        scales=np.full((count, 3), 0.025, np.float32),
        opacities=np.full(count, 0.95, np.float32),
        colours=np.where(is_head[:, None], [0.9, 0.1, 0.1], [0.1, 0.2, 0.8]).astype(np.float32),
    )
    return RiggedAvatar(cloud, rig)


def _control(group: str, label: str) -> PoseControl:
    return next(c for c in CONTROLS if (c.group, c.label) == (group, label))


def _standing() -> BodyParams:
    return turntable().body.select(np.array([0]))


def _joints(body: BodyParams, model: BodyModel) -> np.ndarray:
    tensors = {name: torch.from_numpy(value) for name, value in (("p", full_pose(body)), ("t", body.transl))}
    moved = model.joint_transforms(betas=torch.zeros(1, model.num_betas), full_pose=tensors["p"], transl=tensors["t"])
    rest = torch.nn.functional.pad(model.joints_template, (0, 1), value=1.0)
    return (moved[0] @ rest[..., None])[:, :3, 0].numpy()


@pytest.mark.parametrize(
    ("group", "label", "degrees", "moving", "direction"),
    [  # x: the person's left is the picture's right; y: down; z: away from the camera
        ("Left side", "arm up", 90, "left_wrist", (0, -1, 0)),
        ("Right side", "arm up", 90, "right_wrist", (0, -1, 0)),
        ("Left side", "arm forward", 60, "left_wrist", (0, 0, -1)),
        ("Right side", "arm forward", 60, "right_wrist", (0, 0, -1)),
        ("Left side", "elbow", 90, "left_wrist", (0, 0, -1)),
        ("Right side", "elbow", 90, "right_wrist", (0, 0, -1)),
        ("Left side", "leg forward", 50, "left_ankle", (0, 0, -1)),
        ("Right side", "leg out", 40, "right_ankle", (-1, 0, 0)),
        ("Left side", "leg out", 40, "left_ankle", (1, 0, 0)),
        ("Left side", "knee", 80, "left_ankle", (0, 0, 1)),
        ("Body", "bend", 40, "head", (0, 0, -1)),
        ("Body", "lean", 30, "head", (1, 0, 0)),
        ("Left side", "fist", 80, "left_index3", (-1, 0, 0)),
        ("Right side", "fist", 80, "right_index3", (1, 0, 0)),
    ],
)
def test_sliders_move_what_they_name(
    group: str, label: str, degrees: float, moving: str, direction: tuple[int, int, int], tmp_path: Path
) -> None:
    model = BodyModel.load(write_toy_body(tmp_path / "toy.npz"))
    moved = apply_controls(_standing(), {_control(group, label): degrees}, NO_EXPRESSION)
    shift = _joints(moved, model)[joint(moving)] - _joints(_standing(), model)[joint(moving)]
    assert shift @ np.array(direction) > 0.6 * np.linalg.norm(shift) > 0.0


def test_sliders_at_rest_leave_a_motion_alone_and_expressions_add() -> None:
    body = walk_and_wave().body.select(np.array([40]))
    same = apply_controls(body, dict.fromkeys(CONTROLS, 0.0), NO_EXPRESSION)
    np.testing.assert_allclose(full_pose(same), full_pose(body), atol=1e-6)
    smiling = apply_controls(body, {}, np.array([0.0, 2.0], np.float32))
    assert smiling.expression.shape == body.expression.shape and smiling.expression[0, 1] == 2.0
    turned = apply_controls(body, {_control("Body", "turn"): 180.0}, NO_EXPRESSION)
    assert not np.allclose(turned.global_orient, body.global_orient, atol=0.1)


def test_without_the_extra_the_error_names_it(avatar: RiggedAvatar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(BackendError, match=r"pip install 'lhmforge\[viewer\]'"):
        AvatarViewer(avatar, (), ViewerConfig())


def test_a_real_browser_shows_and_poses_the_avatar(avatar: RiggedAvatar, tmp_path: Path) -> None:
    pytest.importorskip("viser", reason="needs the extra [viewer]")
    program = browser.chromium()
    if program is None:
        pytest.skip("no chromium or google-chrome on the path")
    viewer = AvatarViewer(avatar, (), ViewerConfig(port=18080))
    serving = threading.Thread(target=viewer.run)
    serving.start()

    def settled(page: browser.Page) -> np.ndarray:
        """The canvas without the panel on its right, once two pictures in a row are equal."""
        pictures = [page.picture()]
        browser.wait_for(lambda: pictures.append(page.picture()[:, :560]) or np.array_equal(pictures[-1], pictures[-2]))
        return pictures[-1].astype(int)

    def coloured(picture: np.ndarray) -> np.ndarray:
        return np.abs(picture - picture.mean(-1, keepdims=True)).max(-1) > 40

    try:
        with browser.open_page(program, tmp_path / "profile", viewer.url) as page:
            browser.wait_for(lambda: "Gaussians" in str(page.run("document.body?.innerText")))
            page.run("document.querySelectorAll('.mantine-Notification-closeButton').forEach(b => b.click())")
            browser.wait_for(lambda: bool(coloured(page.picture()[:, :560]).sum() > 1000))
            before = settled(page)
            blue = (before[..., 2] - before[..., 0] > 60) & coloured(before)
            red = (before[..., 0] - before[..., 2] > 60) & coloured(before)
            assert red.sum() > 60 and blue.sum() > 4 * red.sum()
            head, rest = np.argwhere(red).mean(0), np.argwhere(blue).mean(0)
            assert head[0] < rest[0] - 60, "the head must be above the body"
            page.run(_FOCUS.replace("LABEL", "arm up"))
            page.press("End")
            browser.wait_for(lambda: page.run(_VALUE.replace("LABEL", "arm up")) == "150")
            after = settled(page)
            changed = np.argwhere(coloured(before) != coloured(after))
            assert len(changed) > 300
            assert changed[:, 1].mean() > np.argwhere(blue)[:, 1].mean() + 15, "the left arm is on the right"
            page.drag((300, 200), (420, 200))
            assert (coloured(settled(page)) != coloured(after)).sum() > 300, "dragging must orbit"
    finally:
        viewer.close()
        serving.join(20)
    assert not serving.is_alive()


_SLIDER = """[...document.querySelectorAll('[role=slider]')].find(e => {
  for (let up = e; up; up = up.parentElement) {
    const text = up.innerText || '';
    if (text.includes('LABEL')) return text.trim().startsWith('LABEL');
  }
})"""
_FOCUS, _VALUE = _SLIDER + ".focus()", _SLIDER + ".getAttribute('aria-valuenow')"


def test_playing_moves_on_and_wraps(avatar: RiggedAvatar) -> None:
    pytest.importorskip("viser", reason="needs the extra [viewer]")
    motion = replace(walk_and_wave(seconds=1.0, fps=8.0), name="given")
    viewer = AvatarViewer(avatar, (motion,), ViewerConfig(port=18180))
    try:
        assert viewer.step(0.0)
        first = viewer.shown_frame
        assert [viewer.step(0.25) and viewer.shown_frame for _ in range(5)] == [2, 4, 6, 0, 2]
        assert first == 0 and STANDING in viewer.motion_names and viewer.motion_names[0] == "given"
    finally:
        viewer.close()
        viewer.run(0.0)
