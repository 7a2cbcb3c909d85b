"""A headless Chromium driven over its DevTools socket: load a page, run a script, press keys, take pictures."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from websockets.sync.client import ClientConnection, connect

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-component-update",
    "--use-gl=angle",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
    "--remote-debugging-port=0",
    "--window-size=900,640",
)


def chromium() -> str | None:
    """The browser's program, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.contextmanager
def open_page(program: str, profile: Path, url: str) -> Iterator[Page]:
    """A browser of its own with `url` open, until the `with` block ends."""
    command = [program, *_FLAGS, f"--user-data-dir={profile}", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with _connect(profile / "DevToolsActivePort") as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(20)


def wait_for(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    """Returns when the condition holds; fails when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


class Page:
    """One open page."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    def run(self, script: str) -> object:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True})
        assert isinstance(answer, dict) and "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """Key strokes for the focused element."""
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                self._call("Input.dispatchKeyEvent", {"type": kind, "key": key, "code": key})

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """The left mouse button pressed at `start`, moved and released at `end`."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        for kind, (x, y) in (
            ("mousePressed", start),
            ("mouseMoved", middle),
            ("mouseMoved", end),
            ("mouseReleased", end),
        ):
            self._call(
                "Input.dispatchMouseEvent",
                {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1},
            )
            time.sleep(0.05)

    def picture(self) -> np.ndarray:
        """What the page looks like, [H,W,3] uint8."""
        data = self._call("Page.captureScreenshot", {"format": "png"})["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(str(data)))).convert("RGB"))

    def _call(self, method: str, parameters: dict[str, object]) -> dict[str, dict[str, object]]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, dict[str, object]] = answer["result"]
                return result


def _connect(port_file: Path) -> ClientConnection:
    wait_for(lambda: port_file.is_file() and port_file.read_text().count("\n") >= 1)
    port = port_file.read_text().split()[0]
    targets: list[dict[str, str]] = []

    def pages() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
            targets[:] = [target for target in json.load(answer) if target["type"] == "page"]
        return bool(targets)

    wait_for(pages)
    return connect(targets[0]["webSocketDebuggerUrl"], max_size=None)
