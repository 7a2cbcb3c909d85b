"""An avatar in the browser: orbit it, pose it with sliders, play a motion. Serves viser (Apache-2.0) on this machine.

Only the exported files are needed (`avatar.ply`, `rig.npz`): posing is skinning on the CPU, drawing is the browser's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lhmforge.datasets.body.builtin_motion import turntable, walk_and_wave
from lhmforge.datasets.body.motion_file import Motion
from lhmforge.datasets.errors import BackendError
from lhmforge.jobs.pose_controls import CONTROLS, EXPRESSION_LIMIT, NUM_EXPRESSION_SLIDERS, PoseControl, apply_controls
from lhmforge.lhm_model.rig import PosedSplats, RiggedAvatar

STANDING = "standing"
_TICK_S = 1 / 60  # how often sliders are looked at
_MOST_FRAMES_HZ = 30.0  # more would fill the connection: a frame of 40,000 Gaussians is 1.3 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewerConfig:
    """Where the page is served; only this machine can reach the default host."""

    host: str = "127.0.0.1"
    port: int = 8080  # the next free one is taken when it is busy


@dataclass(slots=True)
class _Pose:
    """What the controls ask for."""

    motion: str
    frame: int
    degrees: dict[PoseControl, float]
    expression: tuple[float, ...]


@dataclass(slots=True)
class _Panel:
    """Handles of the page's controls (viser's types are only known where it is installed)."""

    motion: Any
    play: Any
    speed: Any
    frame: Any
    reset: Any
    status: Any
    turns: dict[PoseControl, Any] = field(default_factory=dict)
    expression: list[Any] = field(default_factory=list)

    def read(self) -> _Pose:
        return _Pose(
            motion=self.motion.value,
            frame=int(self.frame.value),
            degrees={control: float(handle.value) for control, handle in self.turns.items()},
            expression=tuple(float(handle.value) for handle in self.expression),
        )


class AvatarViewer:
    """A page that shows one avatar; `run` serves it until `close` is called from another thread.

    `motions` come first in the list of motions; the built-in ones follow. Raises `BackendError` without viser.
    """

    def __init__(
        self, avatar: RiggedAvatar, motions: Sequence[Motion] = (), config: ViewerConfig | None = None
    ) -> None:
        viser = _require_viser()
        config = config or ViewerConfig()
        standing = turntable()
        still = Motion(name=STANDING, body=standing.body.select(np.array([0])), fps=standing.fps)
        self._avatar = avatar
        self._motions = {motion.name: motion for motion in (*motions, still, walk_and_wave(), standing)}
        self._server = viser.ViserServer(host=config.host, port=config.port, label="LHM Forge", verbose=False)
        self._stop = threading.Event()
        self._clock = 0.0  # seconds of motion shown so far
        self._shown: _Pose | None = None
        first = next(iter(self._motions))
        self._splats = _build_scene(self._server, avatar, self._place(first, 0))
        self._panel = _build_panel(self._server, tuple(self._motions), play=first != STANDING)
        self._panel.reset.on_click(lambda _: self._reset())

    @property
    def url(self) -> str:
        return f"http://{self._server.get_host()}:{self._server.get_port()}"

    @property
    def motion_names(self) -> tuple[str, ...]:
        return tuple(self._motions)

    @property
    def shown_frame(self) -> int | None:
        """Of the chosen motion; None before the first `step`."""
        return None if self._shown is None else self._shown.frame

    def run(self, seconds: float | None = None) -> None:
        """Serves the page for that long, or until `close`."""
        end = None if seconds is None else time.monotonic() + seconds
        last = time.monotonic()
        try:
            while not self._stop.is_set() and (end is None or time.monotonic() < end):
                now = time.monotonic()
                busy = self.step(now - last)
                last = now
                self._stop.wait(max(0.0, (1 / _MOST_FRAMES_HZ if busy else _TICK_S) - (time.monotonic() - now)))
        finally:
            self._server.stop()

    def close(self) -> None:
        self._stop.set()

    def step(self, elapsed_s: float) -> bool:
        """Moves a playing motion on and shows the pose that the controls ask for; true when the picture changed."""
        self._advance(elapsed_s)
        wanted = self._panel.read()
        if wanted == self._shown:
            return False
        started = time.perf_counter()
        placed = self._place(wanted.motion, wanted.frame, wanted)
        self._splats.set_gaussians(
            placed.means, placed.covariances, self._avatar.cloud.colours, self._avatar.cloud.opacities[:, None]
        )
        spent_ms = (time.perf_counter() - started) * 1e3
        self._panel.status.content = f"{len(placed.means):,} Gaussians, posed in {spent_ms:.0f} ms"
        self._shown = wanted
        return True

    def _advance(self, elapsed_s: float) -> None:
        panel, motion = self._panel, self._motions[self._panel.motion.value]
        last_frame = motion.body.num_frames - 1
        if panel.frame.max != max(1, last_frame):
            panel.frame.value = min(int(panel.frame.value), last_frame)
            panel.frame.max = max(1, last_frame)
        if panel.play.value and last_frame:
            self._clock += elapsed_s * float(panel.speed.value)
            panel.frame.value = int(self._clock * motion.fps) % motion.body.num_frames
        else:
            self._clock = min(int(panel.frame.value), last_frame) / motion.fps

    def _place(self, motion: str, frame: int, pose: _Pose | None = None) -> PosedSplats:
        body = self._motions[motion].body
        body = body.select(np.array([min(frame, body.num_frames - 1)]))
        if pose is not None:
            body = apply_controls(body, pose.degrees, np.array(pose.expression, np.float32))
        return self._avatar.pose(body)

    def _reset(self) -> None:
        for handle in (*self._panel.turns.values(), *self._panel.expression):
            handle.value = 0.0


def _require_viser() -> Any:
    try:
        import viser
    except ImportError as error:
        raise BackendError("the viewer needs the package viser: pip install 'lhmforge[viewer]'") from error
    return viser


def _build_scene(server: Any, avatar: RiggedAvatar, placed: PosedSplats) -> Any:
    """The avatar on a grid at its feet, the camera in front of it; y points down, as in every motion."""
    low, high = placed.means.min(0), placed.means.max(0)
    centre, height = (low + high) / 2, float(high[1] - low[1])
    server.scene.set_up_direction("-y")
    server.initial_camera.position = tuple((centre + np.array([0.35, -0.1, -1.0]) * 1.15 * height).tolist())
    server.initial_camera.look_at = tuple(centre.tolist())
    server.scene.add_grid(
        "/floor", width=6.0, height=6.0, plane="xz", cell_size=0.5, position=(centre[0], float(high[1]), centre[2])
    )
    return server.scene.add_gaussian_splats(
        "/avatar", placed.means, placed.covariances, avatar.cloud.colours, avatar.cloud.opacities[:, None]
    )


def _build_panel(server: Any, motions: tuple[str, ...], *, play: bool) -> _Panel:
    gui = server.gui
    gui.configure_theme(show_logo=False, show_share_button=False)
    with gui.add_folder("Motion"):
        panel = _Panel(
            motion=gui.add_dropdown("motion", motions, initial_value=motions[0]),
            play=gui.add_checkbox("play", play),
            speed=gui.add_slider("speed", 0.1, 2.0, 0.1, 1.0),
            frame=gui.add_slider("frame", 0, 1, 1, 0),
            reset=gui.add_button("reset pose"),
            status=gui.add_markdown(""),
        )
    for group in dict.fromkeys(control.group for control in CONTROLS):
        with gui.add_folder(group, expand_by_default=group in ("Body", "Left side")):
            for control in CONTROLS:
                if control.group == group:
                    panel.turns[control] = gui.add_slider(control.label, control.low, control.high, 1.0, 0.0)
            if group == "Face":
                panel.expression = [
                    gui.add_slider(f"expression {index + 1}", -EXPRESSION_LIMIT, EXPRESSION_LIMIT, 0.1, 0.0)
                    for index in range(NUM_EXPRESSION_SLIDERS)
                ]
    return panel
