"""TransNetV2: its published weights fit our network and find real cuts; windows cover every frame once."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lhmforge.datasets.errors import BackendError
from lhmforge.pipelines.backends.registry import load_backend
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.backends.transnetv2 import load_network, predict, transitions_to_cuts
from lhmforge.pipelines.backends.transnetv2_network import TransNetV2


def test_published_weights_find_the_cuts_of_a_real_clip(real_videos: Path) -> None:
    path = real_videos / "six_shots.mp4"
    capture = cv2.VideoCapture(str(path))
    grey = [cv2.resize(capture.read()[1], (32, 18)).mean(axis=2) for _ in range(250)]
    capture.release()
    found = load_backend("shots", BackendSpec(name="transnetv2")).cuts(str(path), num_frames=250, fps=25.0)
    assert found == [30, 76, 137, 187, 242]
    jumps = np.abs(np.diff(np.stack(grey), axis=0)).mean(axis=(1, 2))
    for cut in found:  # the picture changes most between the frame before the cut and the cut
        assert jumps[cut - 1] == jumps[max(cut - 20, 0) : cut + 20].max()


class _OwnBrightness(nn.Module):
    """Says of each frame only what it shows, so that a shifted, lost or repeated frame is seen."""

    def forward(self, frames: Tensor) -> Tensor:
        assert frames.shape[1:] == (100, 27, 48, 3)
        return torch.logit((frames[..., 0].float().mean(dim=(2, 3)) + 1) / 257)


@pytest.mark.parametrize("count", [0, 1, 25, 49, 50, 51, 75, 76, 100, 130, 201])
def test_every_frame_is_answered_once_and_in_order(count: int) -> None:
    frames = [np.full((27, 48, 3), index % 256, np.uint8) for index in range(count)]
    found = predict(_OwnBrightness(), iter(frames))
    np.testing.assert_allclose(found, (np.arange(count) % 256 + 1) / 257, atol=1e-4)


def test_a_frame_beside_neighbours_that_are_all_alike_is_no_transition() -> None:
    network = load_network(BackendSpec(name="transnetv2"))
    still = [np.full((27, 48, 3), 90, np.uint8)] * 40
    other = [np.random.default_rng(0).integers(0, 255, (27, 48, 3)).astype(np.uint8)] * 40
    assert predict(network, still).max() < 0.1
    assert transitions_to_cuts(predict(network, still + other)) == [40]


def test_runs_of_transition_frames_become_cuts() -> None:
    probabilities = np.zeros(60, np.float32)
    probabilities[[9, 20, 21]] = 0.9
    probabilities[30:40] = 0.8
    probabilities[59] = 0.9  # a fade-out at the end starts nothing
    assert transitions_to_cuts(probabilities) == [10, 22, 31, 40]


def test_a_state_dict_of_the_users_own_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TransNetV2()
    path = tmp_path / "own.pth"
    torch.save(network.state_dict(), path)
    spec = BackendSpec(name="transnetv2", weights=str(path))
    loaded = load_network(spec)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in network.state_dict().items())
    digests = [load_backend("shots", each).weight_digests() for each in (spec, BackendSpec(name="transnetv2"))]
    assert digests[0] != digests[1]


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    torn = tmp_path / "torn.pth"
    torn.write_bytes(b"not weights")
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    for path, told in ((torn, "not a torch state dict"), (other, "does not hold the weights of TransNetV2")):
        with pytest.raises(BackendError, match=told) as error:
            load_network(BackendSpec(name="transnetv2", weights=str(path)))
        assert path.name in str(error.value)
    with pytest.raises(BackendError, match="does not exist"):
        load_network(BackendSpec(name="transnetv2", weights=str(tmp_path / "missing.pth")))
