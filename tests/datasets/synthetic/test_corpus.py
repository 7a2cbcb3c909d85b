"""Synthetic corpora on disk: resume, damage, and the evaluation of curated samples against the truth."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.errors import BodyError, ConfigError, CorpusError
from lhmforge.datasets.manifest import Manifest, accepted_row, write_manifest
from lhmforge.datasets.records import SourceVideo, TrackScores
from lhmforge.datasets.sample import SampleContent, StoredFrame, build_sample
from lhmforge.datasets.shards import write_shard
from lhmforge.datasets.synthetic.clip import ClipConfig
from lhmforge.datasets.synthetic.corpus import CorpusSummary, read_truth, synthesize_corpus
from lhmforge.datasets.synthetic.evaluate import evaluate_curation
from lhmforge.datasets.synthetic.evaluation_report import write_report
from lhmforge.datasets.synthetic.image_errors import correct_keypoints, matte_errors
from lhmforge.datasets.synthetic.motion import performed
from lhmforge.datasets.synthetic.multiview import MultiviewConfig
from lhmforge.datasets.synthetic.pose_errors import pose_errors, similarity_aligned
from lhmforge.datasets.synthetic.truth import ClipTruth
from lhmforge.datasets.synthetic.view_shards import synthesize_shards

CONFIG = ClipConfig(seed=2, index=0, num_frames=4, width=96, height=128)
WINDOW = (8, 4, 90, 124)


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return BodyModel.load(free_body_path())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize_corpus(CONFIG, 2, folder, free_body_path())
    return folder


def render(folder: Path, count: int, **changes: object) -> CorpusSummary:
    return synthesize_corpus(replace(CONFIG, **changes), count, folder, free_body_path())


def test_finished_clips_are_kept_and_damaged_ones_made_again(corpus: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(corpus.rglob("*")) if path.is_file()}
    assert render(corpus, 2).num_rendered == 0
    video = sorted((corpus / "videos").iterdir())[1]
    video.write_bytes(video.read_bytes()[:-100])
    assert render(corpus, 2).num_rendered == 1
    assert {path: path.read_bytes() for path in sorted(corpus.rglob("*")) if path.is_file()} == before


def test_another_configuration_is_rendered_anew(tmp_path: Path) -> None:
    assert render(tmp_path, 1, num_frames=1).num_rendered == 1
    assert render(tmp_path, 1, num_frames=2).num_rendered == 1
    assert next(iter(read_truth(tmp_path).values())).num_frames == 2


def test_the_manifest_reads_as_a_corpus(corpus: Path) -> None:
    from lhmforge.pipelines.corpus import read_corpus

    sources = read_corpus([corpus / "corpus.csv"])
    assert [s.source_id for s in sources] == sorted(read_truth(corpus))
    assert all(Path(s.uri).is_file() and s.licence == "CC0-1.0" for s in sources)
    assert len({s.identity for s in sources}) == 2


def test_videos_hold_the_frames(corpus: Path, body: BodyModel) -> None:
    import av

    from lhmforge.datasets.synthetic.clip import render_clip

    with av.open(str(sorted((corpus / "videos").iterdir())[0])) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = render_clip(CONFIG, body).frames
    assert len(decoded) == 4
    assert np.abs(np.stack(decoded).astype(int) - frames).mean() < 4


def test_no_truth_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds no finished synthetic clip"):
        read_truth(tmp_path)


def test_view_shards_resume(tmp_path: Path) -> None:
    config = MultiviewConfig(seed=5, num_views=2, width=64, height=96)
    first = synthesize_shards(config, 1, tmp_path, free_body_path())
    again = synthesize_shards(config, 1, tmp_path, free_body_path())
    assert (first.num_rendered, again.num_rendered, again.num_samples) == (1, 0, 1)
    shard = next((tmp_path / "shards").iterdir())
    good, manifest = shard.read_bytes(), Manifest.load(tmp_path / "manifest.parquet").digest
    shard.write_bytes(good[:-10])
    assert synthesize_shards(config, 1, tmp_path, free_body_path()).num_rendered == 1
    assert shard.read_bytes() == good and Manifest.load(tmp_path / "manifest.parquet").digest == manifest


def curated(folder: Path, truths: dict[str, ClipTruth], *, change: dict[str, np.ndarray] | None = None) -> Manifest:
    """What a perfect curation would write: crops of the true mattes with the true parameters, then changed."""
    samples = []
    x0, y0, x1, y1 = WINDOW
    for name, truth in truths.items():
        person = truth.persons[0]
        count = truth.num_frames
        alphas = [person.alpha(n)[y0:y1, x0:x1] for n in range(count)]
        intrinsics = truth.intrinsics.copy()
        intrinsics[:2, 2] -= (x0, y0)
        arrays = person.body.to_arrays()
        for field, offset in (change or {}).items():
            arrays[field] = arrays[field] + offset.astype(np.float32)
        window = np.tile(np.array(WINDOW, np.float32), (count, 1)).T
        names = ("window_x0_px", "window_y0_px", "window_x1_px", "window_y1_px")
        content = SampleContent(
            frames=[StoredFrame.encode(np.repeat(a[..., None], 3, axis=2), a) for a in alphas],
            body=BodyParams.from_arrays(arrays),
            points_px=person.points_px - np.array([x0, y0], np.float32),
            point_scores=person.visible.astype(np.float32),
            intrinsics=np.repeat(intrinsics[None], count, axis=0),
            world_to_camera=np.repeat(np.eye(4, dtype=np.float32)[None], count, axis=0),
            frame_indices=np.arange(count),
            fps=truth.fps,
            frame_values=dict(zip(names, window, strict=True)),
        )
        sample = build_sample(
            content,
            key=f"k_{name}",
            source=SourceVideo(uri="", source_id=name),
            video_digest="v",
            first_frame=0,
            end_frame=count,
            person=0,
            body_digest=truth.body_digest,
            scores=TrackScores(**dict.fromkeys((field.name for field in fields(TrackScores)), 0.0)),
        )
        samples.append(sample)
    info = write_shard(folder / "shards" / "a.tar", samples)
    entries = {entry.key: entry for entry in info.entries}
    rows = [accepted_row(s, shard="shards/a.tar", entry=entries[s.key], fingerprint="f", cost_s={}) for s in samples]
    return write_manifest(folder / "manifest.parquet", rows)


def test_perfect_curation_has_no_error(corpus: Path, body: BodyModel, tmp_path: Path) -> None:
    truths = read_truth(corpus)
    evaluation = evaluate_curation(curated(tmp_path, truths), truths, body)
    summary = evaluation.summary()
    for name in ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "shape_mm", "orientation_deg", "acceleration_mm"):
        assert summary[name] < 0.05, name
    assert summary["reprojection_px"] < 0.01 and summary["matte_mad"] == 0
    assert summary["matte_iou"] == 1 and summary["pck_body@0.05"] == 1 and summary["flipped_percent"] == 0
    tracking = evaluation.tracking
    assert (tracking.num_found, tracking.num_persons, tracking.num_false, tracking.num_switches) == (2, 2, 0, 0)
    assert tracking.frame_recall == 1


def test_known_errors_are_measured(corpus: Path, body: BodyModel, tmp_path: Path) -> None:
    truths = read_truth(corpus)
    shift = {"transl": np.array([0.0, 0.0, 0.1])}
    summary = evaluate_curation(curated(tmp_path / "a", truths, change=shift), truths, body).summary()
    assert abs(summary["translation_mm"] - 100) < 0.1 and summary["mpjpe_mm"] < 0.05
    bend = np.zeros((21, 3))
    bend[17, 1] = 0.5  # left elbow
    bent = evaluate_curation(curated(tmp_path / "b", truths, change={"body_pose": bend}), truths, body)
    summary = bent.summary()
    # One wrong wrist: the alignment that is best in squares spreads its error over all joints.
    assert 1 < summary["pa_mpjpe_mm"] < 40 and 2 < summary["mpjpe_mm"] < 15 and summary["pve_mm"] > 1
    report = write_report(bent, Manifest.load(tmp_path / "b" / "manifest.parquet"), truths, body, tmp_path / "out")
    assert json.loads(report.json.read_text())["summary"]["mpjpe_mm"] == pytest.approx(summary["mpjpe_mm"])
    assert len(report.worst) == 2 and all(fit.picture.stat().st_size > 1000 for fit in report.worst)
    assert "left arm" in report.worst[0].diagnosis.sentence


def test_foreign_corpora_are_refused(corpus: Path, body: BodyModel, tmp_path: Path) -> None:
    truths = read_truth(corpus)
    manifest = curated(tmp_path, truths)
    with pytest.raises(CorpusError, match="none of the 2 sources"):
        evaluate_curation(manifest, {"another": next(iter(truths.values()))}, body)
    with pytest.raises(CorpusError, match="other body files"):
        evaluate_curation(manifest, truths, replace(body, digest="0" * 64))


def test_turned_body_is_measured_in_degrees_and_vanishes_under_procrustes(body: BodyModel) -> None:
    truth = BodyParams.rest(3)
    turned = BodyParams.from_arrays(truth.to_arrays() | {"global_orient": np.full((3, 3), [0, np.pi / 2, 0])})
    errors = pose_errors(body, turned, truth, np.arange(3), np.tile(np.eye(4), (3, 1, 1)))
    np.testing.assert_allclose(errors.orientation_deg, 90, atol=1e-3)
    assert errors.pa_mpjpe_mm.max() < 0.01 < 100 < errors.mpjpe_mm.min()
    assert np.isnan(errors.acceleration_mm[[0, 2]]).all() and errors.acceleration_mm[1] < 1e-6


def test_similarity_alignment_recovers_a_similarity_but_no_reflection() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(10, 3))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    moved = 1.7 * points @ rotation.T + [1, 2, 3]
    np.testing.assert_allclose(similarity_aligned(points, moved), moved, atol=1e-9)
    mirrored = points * [-1, 1, 1]
    assert np.abs(similarity_aligned(points, mirrored) - mirrored).max() > 0.1


def test_matte_and_keypoint_measures() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 255
    half = truth.copy()
    half[:, 10:] = 0
    assert matte_errors(truth, truth).iou == 1 and matte_errors(half, truth).iou == 0.5
    assert matte_errors(half, truth).mad == pytest.approx(1000 * 50 / 400)
    points = np.zeros((1, 133, 2), np.float32)
    scores = np.ones((1, 133), np.float32)
    scores[0, 0] = 0
    points[0, 1] = (3, 0)
    visible = np.zeros((1, 133), bool)
    visible[0, :4] = True
    found = correct_keypoints(points, scores, np.zeros_like(points), visible, np.array([100], np.float32))
    assert found == {"body@0.02": 0.5, "body@0.05": 0.75}


def test_amass_motion_is_turned_upright_and_resampled(tmp_path: Path) -> None:
    poses = np.zeros((60, 165))
    poses[:, 0] = np.pi / 2  # z up: a standing body is turned by +90 degrees about x
    poses[:, 3 + 3 * 17 + 1] = np.linspace(0, 1, 60)
    path = tmp_path / "walk.npz"
    np.savez(path, poses=poses, trans=np.outer(np.arange(60), [0, 0, 0.01]), mocap_frame_rate=60.0, gender="female")
    motion = performed(str(path), num_frames=10, fps=15.0)
    np.testing.assert_allclose(motion.full_pose[:, 0], 0, atol=1e-5)
    np.testing.assert_allclose(np.diff(motion.path[:, 1]), 0.04, atol=1e-5)
    assert motion.full_pose[1, 18, 1] == pytest.approx(4 / 59, abs=1e-4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"poses": np.zeros((3, 63)), "trans": np.zeros((3, 3))}, "21 joints"),
        ({"poses": np.zeros((3, 165)), "trans": np.full((3, 3), np.nan)}, "not finite"),
        ({"markers": np.zeros(3)}, "AMASS"),
    ],
)
def test_wrong_motion_files_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(BodyError, match=message):
        performed(str(path), num_frames=2, fps=10.0)
    with pytest.raises(BodyError, match="no such file"):
        performed(str(tmp_path / "absent.npz"), num_frames=2, fps=10.0)


def test_counts_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="at least one"):
        synthesize_corpus(CONFIG, 0, tmp_path, free_body_path())
    with pytest.raises(ConfigError, match="at least one"):
        synthesize_shards(MultiviewConfig(seed=0), 0, tmp_path, free_body_path())
