"""From a photo to files with stand-in models of curation: who is chosen, what is told, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.body.toy import write_toy_body
from lhmforge.datasets.errors import BackendError, BodyError, CheckpointError, ConfigError, PhotoError, ShardError
from lhmforge.jobs.animate import AnimateConfig, animate
from lhmforge.jobs.config import TrainConfig
from lhmforge.jobs.gpu_memory import memory_explained
from lhmforge.jobs.photo import MAX_SIDE_PX, PhotoStages, fit_photo, read_photo, unseen_parts
from lhmforge.jobs.train import run_training
from lhmforge.lhm_model.ply import read_ply
from lhmforge.lhm_model.rig import RiggedAvatar
from lhmforge.pipelines.backends.roles import BackendSpec
from lhmforge.pipelines.pieces import IdentityConfig
from lhmforge.pipelines.stages.fit import FitStage
from lhmforge.pipelines.stages.keypoints import KeypointsStage
from lhmforge.pipelines.stages.matte import MatteStage
from lhmforge.pipelines.stages.track import TrackStage

# MLflow, which the training run writes to, wakes deprecations of its own database layer.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::sqlalchemy.exc.SADeprecationWarning")

RED, GREEN = (230, 20, 20), (20, 220, 20)


@pytest.fixture(scope="module")
def body_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_body(tmp_path_factory.mktemp("body") / "toy.npz")


@pytest.fixture
def stages(body_file: Path) -> PhotoStages:
    fake = BackendSpec(name="fake")
    return PhotoStages(
        track=TrackStage(
            detector=fake,
            tracker=fake,
            face=None,
            min_frames=1,
            max_frames=3,
            detect_every=1,
            min_height_px=48.0,
            identity=IdentityConfig(min_piece=1, max_covered=1.0),
        ),
        matte=MatteStage(backend=fake),
        keypoints=KeypointsStage(backend=fake, isolate=False),
        fit=FitStage(body=str(body_file)),
    )


def _photo(path: Path, *people: tuple[int, int, tuple[int, int, int]], size: tuple[int, int] = (360, 300)) -> Path:
    """People as coloured figures: x of the middle, height, colour; all stand at the bottom."""
    picture = Image.new("RGB", size, (200, 200, 205))
    draw = ImageDraw.Draw(picture)
    for x, height, colour in people:
        top = size[1] - 20 - height
        draw.ellipse((x - height // 12, top, x + height // 12, top + height // 6), fill=colour)
        draw.rectangle((x - height // 7, top + height // 6, x + height // 7, size[1] - 20), fill=colour)
    picture.save(path)
    return path


def test_of_two_like_people_one_must_be_chosen_and_bystanders_are_told(tmp_path: Path, stages: PhotoStages) -> None:
    pair = read_photo(_photo(tmp_path / "pair.png", (100, 240, RED), (260, 230, GREEN)))
    with pytest.raises(PhotoError, match=r"2 people found \(0 at x = 1\d\d px, 1 at x = 2\d\d px\); choose .*--person"):
        fit_photo(pair, stages)
    right = fit_photo(pair, stages, person=1)
    assert any("2 people found; reconstructed number 1 from the left" in notice for notice in right.notices)
    assert right.sample.image(0)[..., 1].mean() > right.sample.image(0)[..., 0].mean()  # the green one
    with pytest.raises(PhotoError, match="there is no person 2; 2 found"):
        fit_photo(pair, stages, person=2)
    crowd = read_photo(_photo(tmp_path / "far.png", (100, 250, RED), (300, 80, GREEN)))
    assert any("2 people found; reconstructed number 0" in notice for notice in fit_photo(crowd, stages).notices)


def test_a_photo_without_a_person_is_refused(tmp_path: Path, stages: PhotoStages) -> None:
    with pytest.raises(PhotoError, match=r"empty\.png"):
        fit_photo(read_photo(_photo(tmp_path / "empty.png")), stages)


def test_parts_that_the_photo_does_not_show_are_named(tmp_path: Path, stages: PhotoStages) -> None:
    points, scores = np.zeros((133, 2), np.float32), np.ones(133, np.float32)
    assert unseen_parts(points, scores) == ()
    scores[11:23] = 0.1
    assert unseen_parts(points, scores) == ("hips", "knees", "feet")
    scores[:] = 0.0
    assert len(unseen_parts(points, scores)) == 7
    whole = fit_photo(read_photo(_photo(tmp_path / "one.png", (180, 250, RED))), stages)
    assert whole.notices == ()


@pytest.mark.parametrize("kind", ["exif", "cmyk", "grey16", "grey", "alpha", "huge"])
def test_pictures_of_every_kind_reach_the_fit(kind: str, tmp_path: Path, stages: PhotoStages) -> None:
    with Image.open(_photo(tmp_path / "plain.png", (180, 250, RED))) as opened:
        plain = opened.convert("RGB")
    path = tmp_path / f"{kind}.{'jpg' if kind in ('exif', 'cmyk', 'huge') else 'png'}"
    if kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = 8  # stored turned; shown turned back
        plain.transpose(Image.Transpose.ROTATE_270).save(path, exif=exif, quality=95)
    elif kind == "cmyk":
        plain.convert("CMYK").save(path, quality=95)
    elif kind == "grey16":
        Image.fromarray(np.asarray(plain.convert("L"), np.uint16) * 257).save(path)
    elif kind == "grey":
        plain.convert("L").save(path)
    elif kind == "alpha":
        layered = plain.convert("RGBA")
        layered.putalpha(Image.fromarray((np.asarray(plain)[..., 0] > 210).astype(np.uint8) * 255))
        layered.save(path)
    else:
        wide = Image.new("RGB", (8400, 900), (200, 200, 205))
        wide.paste(plain.resize((1080, 900)), (4000, 0))
        wide.save(path, quality=60)
        assert read_photo(path).image.shape[1] == MAX_SIDE_PX
    photo = read_photo(path)
    assert kind == "huge" or photo.image.shape[0] * 6 == pytest.approx(photo.image.shape[1] * 5, abs=12)  # upright
    if kind in ("grey16", "grey"):  # the stand-in detector finds colours only
        assert photo.image.std() > 10 and (photo.image == photo.image[..., :1]).all()
        return
    sample = fit_photo(photo, stages).sample
    assert sample.num_frames == 1 and (sample.alpha(0) > 128).any()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


def _run(small_config: TrainConfig, folder: Path) -> Path:
    if not (folder / "run").exists():
        run_training(small_config, folder / "run")
    return folder / "run"


def test_a_photo_becomes_files_that_can_be_posed(
    small_config: TrainConfig, trained: Path, tmp_path: Path, stages: PhotoStages
) -> None:
    run = _run(small_config, trained)
    config = AnimateConfig(
        checkpoint=run,
        image=_photo(tmp_path / "one.png", (180, 250, RED)),
        output=tmp_path / "avatar",
        motion=f"{small_config.data.sources[0].manifest}#person000",
        body=small_config.body,
        width=48,
        height=80,
        fps=4.0,
        max_seconds=0.5,
    )
    result = animate(config, stages=stages)
    assert len(read_ply(result.avatar).means) == len(read_ply(result.posed).means) == small_config.model.num_points
    assert not np.allclose(read_ply(result.avatar).means, read_ply(result.posed).means, atol=0.05)
    posed = RiggedAvatar.load(tmp_path / "avatar").pose(BodyParams.rest(1))
    np.testing.assert_allclose(posed.means, read_ply(result.avatar).means, atol=1e-4)
    assert all(path.stat().st_size > 0 for path in (result.animation, result.turntable, result.source, result.person))


def test_what_cannot_be_used_is_refused_before_the_photo_is_touched(
    small_config: TrainConfig, trained: Path, tmp_path: Path, stages: PhotoStages
) -> None:
    run = _run(small_config, trained)
    config = AnimateConfig(
        checkpoint=run, image=tmp_path / "absent.png", output=tmp_path / "out", body=small_config.body
    )
    still = BodyParams.rest(3).to_arrays()
    np.savez(tmp_path / "nan.npz", **(still | {"body_pose": np.full((3, 21, 3), np.nan, np.float32)}))
    np.savez(tmp_path / "joints.npz", poses=np.zeros((4, 75)), trans=np.zeros((4, 3)))
    for motion, words in (("nan.npz", "not finite"), ("joints.npz", "25 joints"), ("none.npz", "no such file")):
        with pytest.raises(BodyError, match=words):
            animate(replace(config, motion=str(tmp_path / motion)), stages=stages)
    with pytest.raises(ShardError, match="nobody"):
        animate(replace(config, motion=f"{small_config.data.sources[0].manifest}#nobody"), stages=stages)
    with pytest.raises(PhotoError, match="no such file"):
        animate(config, stages=stages)
    with pytest.raises(ConfigError, match="sides must lie in"):
        replace(config, width=5)


def _other_body(body_file: Path, path: Path) -> Path:
    with np.load(body_file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(path, **(arrays | {"v_template": arrays["v_template"] * 1.01}))
    return path


def test_checkpoints_that_do_not_fit_are_refused(
    small_config: TrainConfig, trained: Path, tmp_path: Path, stages: PhotoStages, body_file: Path
) -> None:
    run = _run(small_config, trained)
    image = _photo(tmp_path / "one.png", (180, 250, RED))
    config = AnimateConfig(checkpoint=run, image=image, output=tmp_path / "out", body=small_config.body)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        animate(replace(config, checkpoint=tmp_path), stages=stages)
    with pytest.raises(CheckpointError, match="trained on a body file"):
        animate(replace(config, body=str(_other_body(body_file, tmp_path / "other.npz"))), stages=stages)
    shutil.copytree(run / "checkpoints", tmp_path / "torn")
    for weights in (tmp_path / "torn").rglob("*"):
        if weights.is_file() and weights.suffix != ".json":
            weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(CheckpointError):
        animate(replace(config, checkpoint=tmp_path / "torn"), stages=stages)


def test_out_of_gpu_memory_says_what_to_do() -> None:
    with (
        pytest.raises(BackendError, match=r"ran out of memory \(no room\); use --device cpu"),
        memory_explained("use --device cpu"),
    ):
        raise torch.cuda.OutOfMemoryError("no room\nmany lines")
