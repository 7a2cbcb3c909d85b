"""Evaluation of real curation runs: the chain's own gate and packing, fed with the truth in place of the models."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.errors import CorpusError
from lhmforge.datasets.records import (
    AlphaCrop,
    Clip,
    FittedTrack,
    Keypoints,
    KeypointTrack,
    MattedTrack,
    SourceVideo,
    Track,
    Video,
)
from lhmforge.datasets.synthetic.clip import ClipConfig
from lhmforge.datasets.synthetic.corpus import read_truth, synthesize_clips
from lhmforge.datasets.synthetic.truth import ClipTruth
from lhmforge.jobs.cli import build_app
from lhmforge.jobs.curate import CurateConfig, fake_recipe, run_curation
from lhmforge.jobs.curation_evaluation import CuratedRun, RunEvaluation, evaluate_run
from lhmforge.jobs.gate_report import calibrate
from lhmforge.jobs.gate_trials import CLEAN, collect_trials
from lhmforge.pipelines.chain import chain_fingerprints
from lhmforge.pipelines.corpus import read_corpus
from lhmforge.pipelines.ledger import Ledger
from lhmforge.pipelines.record_codec import encode_records
from lhmforge.pipelines.uncertainty import UncertaintyLaw

CLIPS = (
    ClipConfig(seed=31, index=0, num_frames=12, width=96, height=128, fps=8.0, motion="walk"),
    ClipConfig(seed=31, index=1, num_frames=12, width=128, height=96, fps=8.0, num_persons=2, staging="crossing"),
)


@dataclass(frozen=True)
class World:
    clips: Path
    run: Path
    body: BodyModel
    truths: dict[str, ClipTruth]


def recipe() -> CurateConfig:
    config = fake_recipe()
    gate = replace(config.gate, min_height_px=20.0, max_reprojection=0.05, max_frame_reprojection=0.05)
    return replace(config, gate=gate, probe=replace(config.probe, min_side_px=64))


def true_fit(video: Video, truth: ClipTruth, person: int, digest: str) -> FittedTrack:
    """What perfect models would have found, at the frames in which the person is seen at all."""
    true_person = truth.persons[person]
    frames = np.flatnonzero(true_person.visible_share > 0.2)
    track = Track(
        clip=Clip(video=video, first_frame=0, end_frame=truth.num_frames),
        person=person,
        frame_indices=frames,
        boxes_px=true_person.boxes_px[frames],
        scores=np.ones(len(frames), np.float32),
        other_boxes_px=tuple(np.zeros((0, 4), np.float32) for _ in frames),
    )
    window = (0, 0, video.width_px, video.height_px)
    alphas = tuple(AlphaCrop(window_px=window, png=true_person.alpha_pngs[n]) for n in frames)
    keypoints = Keypoints(
        points_px=true_person.points_px[frames],
        scores=true_person.visible[frames].astype(np.float32),
        landmark_set="none",
        landmarks_m=np.zeros((len(frames), 0, 3), np.float32),
        landmark_scores=np.zeros((len(frames), 0), np.float32),
        blendshapes=np.zeros((len(frames), 0), np.float32),
        face_px=np.zeros((len(frames), 0, 2), np.float32),
    )
    return FittedTrack(
        keypointed=KeypointTrack(matted=MattedTrack(track=track, alphas=alphas), keypoints=keypoints),
        body=true_person.body.select(frames),
        body_digest=digest,
        intrinsics=truth.intrinsics,
        reprojection_px=np.full(len(frames), 0.5, np.float32),
        pose_uncertainty_rad=np.full(len(frames), 0.1, np.float32),
    )


def spoiled(fit: FittedTrack) -> FittedTrack:
    """A left elbow half a radian off everywhere, and two frames that the gate must drop."""
    pose, errors = fit.body.body_pose.copy(), fit.reprojection_px.copy()
    pose[:, 17, 1] += 0.5
    errors[:2] = 60
    return replace(fit, body=replace(fit.body, body_pose=pose), reprojection_px=errors)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    clips, output = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("run")
    synthesize_clips(CLIPS, clips, free_body_path())
    body, truths, config = BodyModel.load(free_body_path()), read_truth(clips), recipe()
    fingerprints = dict(zip((s.name for s in config.stages), chain_fingerprints(config.stages), strict=True))
    for source in read_corpus([clips / "corpus.csv"]):
        truth = truths[source.source_id]
        video = probe(source, config)
        fits = [true_fit(video, truth, n, body.digest) for n in range(len(truth.persons))]
        fits[0] = spoiled(fits[0])
        if len(fits) > 1:  # the second person's fit is one that the gate turns away
            fits[1] = replace(fits[1], reprojection_px=fits[1].reprojection_px + 50)
        paths = tuple(fit.track.path for fit in fits)
        single = [(name, 1, 1, 0) for name in ("probe", "shots")]
        each = [(name, len(fits), len(fits), 0) for name in ("matte", "keypoints", "fit")]
        counts = (*single, ("track", 1, len(fits), 0), *each)
        data = encode_records([tuple(fits), (), counts, (), paths], source=source)
        Ledger(output).put("fit", fingerprints["fit"], video.digest, data)
    run_curation(config, [clips / "corpus.csv"], output, workers=0, progress=False)
    return World(clips=clips, run=output, body=body, truths=truths)


def probe(source: SourceVideo, config: CurateConfig) -> Video:
    from lhmforge.pipelines.context import UnitContext

    with UnitContext({}) as context:
        video = next(iter(config.probe(source, context)))
    assert isinstance(video, Video)
    return video


@pytest.fixture(scope="module")
def evaluation(world: World) -> RunEvaluation:
    return evaluate_run(CuratedRun.open(world.run), world.truths, world.body)


def test_what_reached_the_shards_is_measured(evaluation: RunEvaluation) -> None:
    summary = evaluation.shards.summary()
    assert {sample.person for sample in evaluation.shards.samples} == {0} and len(evaluation.shards.samples) == 2
    assert 2 < summary["mpjpe_mm"] < 15 and summary["matte_iou"] > 0.98 and summary["orientation_deg"] < 0.1


def test_every_true_person_frame_has_a_fate(evaluation: RunEvaluation) -> None:
    fates = {fate.name: fate for fate in evaluation.fates}
    assert sum(fate.share for fate in fates.values()) == pytest.approx(1)
    assert fates["frame dropped by the gate"].num_person_frames == 4
    turned_away = fates["gate: high_reprojection"]
    # The errors of what the gate turned away are told as well: that person's fit was the truth itself.
    assert turned_away.num_fitted == turned_away.num_person_frames > 5 and turned_away.mpjpe_mm < 0.1
    assert 2 < fates["in a shard"].mpjpe_mm < 15


def test_tracking_counts_the_rejected_track_too(evaluation: RunEvaluation) -> None:
    scores = evaluation.tracking
    assert (scores.idf1, scores.mota, scores.num_switches, scores.num_persons) == (1.0, 1.0, 0, 3)


def test_uncertainty_is_compared_with_the_true_angle(evaluation: RunEvaluation) -> None:
    found = evaluation.uncertainty
    assert found is not None
    angles = [0.5 / np.sqrt(22), 0.0]  # the spoiled tracks, the true one
    counts = [sum(len(f.frame_indices) for f in evaluation.fits if f.person == n) for n in (0, 1)]
    expected = np.sqrt(np.average(np.square(angles), weights=counts))
    assert found.true_rad == pytest.approx(expected, rel=1e-3) and found.reported_rad == pytest.approx(0.1)
    assert found.factor == pytest.approx(expected / 0.1, rel=1e-3)
    assert found.frames_within_1 == pytest.approx(counts[1] / sum(counts))


def test_the_command_finds_the_truth_and_writes_everything(world: World, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        build_app(), ["evaluate-curation", "--data", str(world.run), "--output", str(tmp_path), "--worst", "1"]
    )
    assert result.exit_code == 0, result.output
    assert "IDF1" in result.output and "left arm is off by" in " ".join(result.output.split())
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["tracking"]["mota"] == 1.0 and len(content["worst"]) == 1
    assert (tmp_path / content["worst"][0]["picture"]).stat().st_size > 1000
    assert {fate["name"] for fate in content["fates"]} >= {"in a shard", "gate: high_reprojection"}


def test_foreign_folders_and_lost_truth_are_explained(world: World, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no output folder"):
        CuratedRun.open(tmp_path)
    with pytest.raises(CorpusError, match="--truth"):
        replace(CuratedRun.open(world.run), inputs=(str(tmp_path),)).truth_folder()


def test_without_the_cache_only_the_fits_are_missing(world: World) -> None:
    run = CuratedRun.open(world.run)
    fit = replace(run.config.fit, uncertainty=UncertaintyLaw(scale_rad=1.0))
    other = replace(run, config=replace(run.config, fit=fit))
    assert run.fits(sorted(world.truths)) is not None and other.fits(sorted(world.truths)) is None
    found = evaluate_run(other, world.truths, world.body)
    assert found.uncertainty is None and not any(fate.num_fitted for fate in found.fates)
    assert found.tracking.mota == 1.0 and len(found.shards.samples) == 2


def test_spoiled_tracks_are_judged_by_the_truth(world: World, tmp_path: Path) -> None:
    run = CuratedRun.open(world.run)
    fits = run.fits(sorted(world.truths))
    assert fits is not None
    found = collect_trials(run.config, fits, world.truths, world.body, cache=tmp_path)
    kinds = {trial.kind for trial in found.trials}
    assert {CLEAN, "wrong_matte", "shaken_pose", "other_fit"} <= kinds
    clean = [trial for trial in found.trials if trial.kind == CLEAN]
    assert len(clean) == 3 and not any(trial.evaluation.is_bad for trial in clean)
    others = [trial for trial in found.trials if trial.kind == "other_fit"]
    assert np.mean([t.evaluation.pa_mpjpe_mm.mean() for t in others]) > 40
    calibration = calibrate(found.trials, run.config.gate, max_fpr=0.1)
    assert calibration.kinds[-1].num_tracks == len(found.trials)
    assert {c.by_truth.name for c in calibration.curves} >= {"reprojection", "frame_matte_iou", "frame_uncertainty"}
