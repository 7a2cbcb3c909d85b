"""The report adds up, shows every record, and works in a real browser from a file, with ten thousand tracks too."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from curation_videos import write_video

from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.body.toy import write_toy_body
from lhmforge.datasets.codecs import encode_png
from lhmforge.datasets.errors import ConfigError, ShardError
from lhmforge.datasets.manifest import QUARANTINED, Manifest, ManifestRow, accepted_row, rejected_row, write_manifest
from lhmforge.datasets.records import (
    AlphaCrop,
    Clip,
    FittedTrack,
    Keypoints,
    KeypointTrack,
    MattedTrack,
    PackedSample,
    Reject,
    SourceVideo,
    Track,
    TrackPath,
    TrackScores,
    Video,
)
from lhmforge.datasets.sample import SampleContent, StoredFrame, build_sample
from lhmforge.datasets.shards import write_shard
from lhmforge.datasets.track_paths import SourcePath, write_paths
from lhmforge.pipelines.ledger import RECORD_VERSION, Ledger, StageTotal, UnitRecord, VideoOutcome
from lhmforge.pipelines.qa.mesh_overlay import BodyPainter
from lhmforge.pipelines.qa.rejected import write_rejected_pictures
from lhmforge.pipelines.qa.report import ReportConfig, write_report
from lhmforge.pipelines.qa.run_data import read_run
from lhmforge.pipelines.qa.tiles import spread_frames
from lhmforge.pipelines.record_codec import encode_records

NUM_FRAMES, NUM_ACCEPTED = 5, 3
WIDTH, HEIGHT = 90, 160
NASTY = '<img src=x onerror="document.title=1">.mp4'


def upright(num_frames: int) -> BodyParams:
    params = BodyParams.rest(num_frames)
    params.global_orient[:, 0] = np.pi
    params.transl[:] = [0.0, 0.3, 4.0]
    return params


CAMERA = np.array([[300, 0, WIDTH / 2], [0, 300, HEIGHT / 2], [0, 0, 1]], np.float32)


@pytest.fixture(scope="module")
def body_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_body(tmp_path_factory.mktemp("body") / "toy.npz")


@pytest.fixture(scope="module")
def painter(body_file: Path) -> BodyPainter:
    return BodyPainter(BodyModel.load(body_file))


def scores(value: float) -> TrackScores:
    return TrackScores(**{score.name: value for score in fields(TrackScores)})


def painted_sample(painter: BodyPainter, number: int) -> PackedSample:
    params = upright(NUM_FRAMES)
    cameras, places = np.tile(CAMERA, (NUM_FRAMES, 1, 1)), np.tile(np.eye(4, dtype=np.float32), (NUM_FRAMES, 1, 1))
    pictures = painter.paint(params, intrinsics=cameras, world_to_camera=places, size=(WIDTH, HEIGHT))
    points = np.full((NUM_FRAMES, 133, 2), 40.0, np.float32)
    points[:, 6] = 60.0
    seen = np.zeros((NUM_FRAMES, 133), np.float32)
    seen[:, 5:7] = 1.0
    content = SampleContent(
        frames=[
            StoredFrame.encode(np.ascontiguousarray(p[..., :3]), np.ascontiguousarray(p[..., 3])) for p in pictures
        ],
        body=params,
        points_px=points,
        point_scores=seen,
        intrinsics=cameras,
        world_to_camera=places,
        frame_indices=np.arange(NUM_FRAMES, dtype=np.int64) * 3,
        fps=30.0,
        frame_values={"reprojection_px": np.ones(NUM_FRAMES, np.float32)},
    )
    return build_sample(
        content,
        key=f"good{number}",
        source=SourceVideo(uri="", source_id=NASTY if number == 0 else f"good{number}.mp4", licence="CC0"),
        scores=scores(0.1 * number),
        video_digest=f"v{number}",
        first_frame=0,
        end_frame=13,
        person=0,
        body_digest=painter.body_digest,
    )


def make_run(folder: Path, painter: BodyPainter, *, num_rejected: int) -> Path:
    """Three accepted samples, `num_rejected` rejects of the gate and one quarantined video, with a unit record."""
    samples = {sample.key: sample for sample in (painted_sample(painter, number) for number in range(NUM_ACCEPTED))}
    info = write_shard(folder / "shards" / "u-000.tar", list(samples.values()))
    rows: list[ManifestRow] = [
        accepted_row(samples[entry.key], shard="shards/u-000.tar", entry=entry, fingerprint="f", cost_s={"fit": 2.0})
        for entry in info.entries
    ]
    rows[:2] = [replace(row, identity_cluster="good0") for row in rows[:2]]
    rows[1:] = [replace(row, duplicate_group="good1") for row in rows[1:]]
    for number in range(num_rejected):
        reject = Reject(
            key=f"bad{number:05d}",
            source=SourceVideo(uri="", source_id=f"bad{number:05d}.mp4"),
            stage="gate",
            reason="blurred" if number % 2 else "jittery",
            detail="too much",
            scores=scores(float(number)) if number % 5 else None,
        )
        rows.append(rejected_row(reject, fingerprint="f", cost_s={"fit": 1.0}))
    lost = Reject(
        key="lost", source=SourceVideo(uri="", source_id="lost"), stage="fit", reason="quarantined", detail=""
    )
    rows.append(rejected_row(lost, fingerprint="f", cost_s={}, attempts=3, status=QUARANTINED))
    write_manifest(folder / "manifest.parquet", rows)
    Ledger(folder).write_record(unit_record(num_rejected))
    return folder


def unit_record(num_rejected: int) -> UnitRecord:
    entered = NUM_ACCEPTED + num_rejected

    def total(stage: str, num_in: int, num_out: int) -> StageTotal:
        return StageTotal(
            stage=stage, num_in=num_in, num_out=num_out, num_rejected=num_in - num_out, seconds=1.0, cached_seconds=0.0
        )

    videos = tuple(
        VideoOutcome(
            source_id=str(number),
            state="done" if number < entered else "quarantined",
            digest="",
            num_bytes=0,
            mtime_ns=0,
            num_frames=9,
            duration_s=1.0,
            num_tracks=1,
            num_accepted=int(number < NUM_ACCEPTED),
            num_rejected=int(number >= NUM_ACCEPTED),
            attempts=1,
            seconds=1.0,
        )
        for number in range(entered + 1)
    )
    stages = (total("fit", entered, entered), total("gate", entered, NUM_ACCEPTED), total("pack", 3, 3))
    return UnitRecord(
        version=RECORD_VERSION, unit="u", fingerprint="f", videos=videos, shards=(), stages=stages, rows=(), seconds=1.0
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, painter: BodyPainter, body_file: Path) -> Path:
    folder = make_run(tmp_path_factory.mktemp("run"), painter, num_rejected=7)
    write_report(folder, ReportConfig(body_file=body_file, frames_per_sample=4))
    return folder


def test_the_funnel_adds_up_and_says_so(run: Path) -> None:
    data = read_run(run)
    assert data.discrepancies == ()
    steps = {step.stage: step for step in data.funnel}
    assert (steps["corpus"].num_in, steps["corpus"].num_out, steps["corpus"].num_rejected) == (11, 10, 1)
    assert [(r.reason, r.count) for r in steps["gate"].reasons] == [("jittery", 4), ("blurred", 3)]
    page = (run / "report" / "index.html").read_text()
    assert "Every count adds up" in page and "jittery" in page


def test_a_funnel_that_does_not_add_up_is_told(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    record = unit_record(7)
    wrong = replace(record, stages=(record.stages[0], replace(record.stages[1], num_in=9), record.stages[2]))
    Ledger(tmp_path / "run").write_record(wrong)
    assert read_run(tmp_path / "run").discrepancies == ("fit passed 10 records on, gate got 9",)
    page = write_report(tmp_path / "run").read_text()
    assert "do not add up" in page


def test_names_from_outside_are_escaped_and_files_are_all_there(run: Path) -> None:
    report = run / "report"
    page = (report / "index.html").read_text()
    assert "<img src=x" not in page
    data = json.loads((report / "data.js").read_text().removeprefix("const REPORT = ").rstrip(";\n"))
    stems = [stem for stem in data["stems"] if stem]
    assert len(stems) == NUM_ACCEPTED
    for stem in stems:
        for suffix in ("frames.jpg", "matte.webp", "body.webp", "thumb.jpg", "js"):
            assert (report / f"{stem}.{suffix}").is_file()
    for place in re.findall(r'src="([^"]+)"', page):
        assert (report / place).is_file()


def test_layers_lie_over_the_person(run: Path) -> None:
    """The sample was painted by the same body, so matte hole and painted body must coincide in the strips."""
    (script,) = (run / "report" / "tracks").glob("*/good1-*.js")
    stem = str(script)[: -len(".js")]
    frames = cv2.imread(f"{stem}.frames.jpg")
    body = cv2.imread(f"{stem}.body.webp", cv2.IMREAD_UNCHANGED)[..., 3] > 127
    matte = cv2.imread(f"{stem}.matte.webp", cv2.IMREAD_UNCHANGED)[..., 3] < 100
    assert frames.shape == (320, 4 * 240, 3) and body.shape == (320, 4 * 240)
    inside = slice(30, 210)  # of the first tile; the painted hands reach beyond the frame
    body, matte = body[:, inside], matte[:, inside]
    assert (body & matte).sum() / (body | matte).sum() > 0.92
    centres = [np.argwhere(mask).mean(axis=0) for mask in (body, matte)]
    assert np.abs(centres[0] - centres[1]).max() < 2.0
    details = json.loads(script.read_text().removeprefix('receiveTrack("good1",').rstrip(");\n"))
    assert details["frames"] == [0, 3, 9, 12] and details["values"]["reprojection_px"] == [1.0] * 4
    (first, second) = details["points"][0]
    scale = 2.0  # 90 x 160 into 240 x 320: height decides, 30 px beside it
    assert first == [5, 40 * scale + 30, 40 * scale] and second == [6, 60 * scale + 30, 60 * scale]


def test_a_second_report_keeps_pictures_and_gives_the_same_bytes(run: Path, body_file: Path) -> None:
    report = run / "report"
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in report.rglob("*.*")}
    write_report(run, ReportConfig(body_file=body_file, frames_per_sample=4))
    assert set(report.rglob("*.*")) == set(before)
    for path, (data, changed) in before.items():
        assert path.read_bytes() == data
        if path.suffix in (".jpg", ".webp"):
            assert path.stat().st_mtime_ns == changed


def test_without_a_body_file_the_page_says_what_is_missing(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    page = write_report(tmp_path / "run", ReportConfig(max_samples_with_pictures=2, max_contact_samples=0)).read_text()
    assert "Pictures: 2 of 3 samples" in page and "the body layer of 2 is missing" in page
    assert not list((tmp_path / "run" / "report").rglob("*.body.webp"))


def test_turned_down_tracks_are_shown_too(tmp_path: Path, painter: BodyPainter) -> None:
    """A track with a video, one whose video is gone, and one with a fit in the cache, whose body is painted over it."""
    video = write_video(tmp_path / "in" / "walk.mp4", width=96, height=160, num_frames=12)
    digest = "ab" * 32
    keys = [f"{digest[:16]}_000000_000012_p{person:02d}" for person in range(3)]
    sources = [SourceVideo(uri=uri, source_id=f"s{n}") for n, uri in enumerate((str(video), "/gone.mp4", str(video)))]
    rows = [
        rejected_row(
            Reject(key=key, source=source, stage="gate", reason="blurred", detail=""),
            fingerprint="f", cost_s={}, video_digest=digest,
        )
        for key, source in zip(keys, sources, strict=True)
    ]  # fmt: skip
    write_manifest(tmp_path / "manifest.parquet", rows)
    frames = np.arange(0, 12, 2, dtype=np.int64)
    boxes = np.tile(np.array([20, 10, 70, 150], np.float32), (6, 1))
    paths = [TrackPath(key=key, frame_indices=frames, boxes_px=boxes, scores=np.ones(6, np.float32)) for key in keys]
    place = tmp_path / "tracks" / "u.parquet"
    write_paths(str(place), [SourcePath(source_id=s.source_id, path=p) for s, p in zip(sources, paths, strict=True)])
    fitted = fitted_track(keys[2], sources[2], digest, frames, boxes, painter.body_digest)
    assert fitted.key == keys[2]
    Ledger(tmp_path).put("fit", "c" * 64, digest, encode_records([(fitted,), (), (), (), ()], source=sources[2]))
    found = write_rejected_pictures(
        str(tmp_path / "report"), str(tmp_path), Manifest.load(tmp_path / "manifest.parquet").rejected(),
        limit=9, num_tiles=4, fit_fingerprint="c" * 64, painter=painter,
    )  # fmt: skip
    assert {key: (p.num_tiles, p.has_matte, p.has_body) for key, p in found.items()} == {
        keys[0]: (4, False, False), keys[2]: (4, True, True),
    }  # fmt: skip
    plain = cv2.imread(str(tmp_path / "report" / f"{found[keys[0]].stem}.frames.jpg"))
    assert plain.shape == (320, 4 * 240, 3)
    assert (plain[..., 2] > 180).mean() > 0.05  # the red figure is in the tiles
    body = cv2.imread(str(tmp_path / "report" / f"{found[keys[2]].stem}.body.webp"), cv2.IMREAD_UNCHANGED)
    assert (body[..., 3] > 127).mean() > 0.02
    details = (tmp_path / "report" / f"{found[keys[2]].stem}.js").read_text()
    assert details.startswith(f'receiveTrack("{keys[2]}"') and "[5," in details and '"frames":[0,4,6,10]' in details
    limited = write_rejected_pictures(
        str(tmp_path / "report"), str(tmp_path), Manifest.load(tmp_path / "manifest.parquet").rejected(),
        limit=0, num_tiles=4, fit_fingerprint="", painter=None,
    )  # fmt: skip
    assert limited == {}


def fitted_track(
    key: str, source: SourceVideo, digest: str, frames: np.ndarray, boxes: np.ndarray, body_digest: str
) -> FittedTrack:
    count = len(frames)
    video = Video(
        source=source, digest=digest, container="mp4", codec="h264", width_px=96, height_px=160, rotation_deg=0,
        num_frames=12, fps=24.0, duration_s=0.5, bit_depth=8,
    )  # fmt: skip
    track = Track(
        clip=Clip(video=video, first_frame=0, end_frame=12), person=int(key[-2:]), frame_indices=frames,
        boxes_px=boxes, scores=np.ones(count, np.float32),
        other_boxes_px=tuple(np.zeros((0, 4), np.float32) for _ in range(count)),
    )  # fmt: skip
    alpha = AlphaCrop(window_px=(20, 10, 70, 150), png=encode_png(np.full((140, 50), 255, np.uint8)))
    scores = np.zeros((count, 133), np.float32)
    scores[:, 5] = 1.0
    keypoints = Keypoints(
        points_px=np.full((count, 133, 2), 40.0, np.float32), scores=scores, landmark_set="none",
        landmarks_m=np.zeros((count, 0, 3), np.float32), landmark_scores=np.zeros((count, 0), np.float32),
        blendshapes=np.zeros((count, 0), np.float32), face_px=np.zeros((count, 0, 2), np.float32),
    )  # fmt: skip
    matted = MattedTrack(track=track, alphas=(alpha,) * count)
    return FittedTrack(
        keypointed=KeypointTrack(matted=matted, keypoints=keypoints), body=upright(count), body_digest=body_digest,
        intrinsics=CAMERA, reprojection_px=np.ones(count, np.float32),
        pose_uncertainty_rad=np.ones(count, np.float32),
    )  # fmt: skip


def test_nothing_accepted_and_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="missing"):
        write_report(tmp_path / "nowhere")
    write_manifest(tmp_path / "manifest.parquet", [])
    assert "No sample was accepted" in write_report(tmp_path).read_text()
    with pytest.raises(ConfigError, match="frames_per_sample"):
        ReportConfig(frames_per_sample=0)


def test_frames_are_spread_from_first_to_last() -> None:
    assert spread_frames(3, 16).tolist() == [0, 1, 2]
    assert spread_frames(100, 5).tolist() == [0, 25, 50, 74, 99]


# What a person would do, done by a script inside the page; its findings become the page's text.
DRIVER = """
<pre id="found"></pre>
<script>
window.addEventListener("load", () => setTimeout(async () => {
  const found = {};
  const rows = () => [...document.querySelectorAll("#rows tbody tr")].map((tr) => text("key", Number(tr.dataset.row)));
  const set = (id, value) => { byId(id).value = value; byId(id).dispatchEvent(new Event("input")); };
  const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
  found.all = byId("count").textContent;
  found.firstPage = rows().length;
  byId("next").click();
  found.secondPage = rows()[0];
  const started = performance.now();
  set("sort", "jitter");
  byId("descending").click();
  found.sortMs = performance.now() - started;
  found.largest = rows().slice(0, 2);
  set("reason", "blurred");
  found.blurred = byId("count").textContent;
  set("score", "jitter");
  set("low", "11");
  set("high", "13");
  found.ranged = rows();
  for (const id of ["reason", "score", "low", "high"]) set(id, "");
  set("status", "accepted");
  set("sort", "key");
  byId("descending").click();
  found.accepted = rows().sort();
  document.querySelector("nav button[data-view=tracks]").click();
  await new Promise((done) => setTimeout(done, 100));
  document.querySelectorAll("#rows tbody tr")[1].click();
  await new Promise((done) => setTimeout(done, 500));
  found.open = byId("viewer").open;
  found.title = byId("v-where").textContent;
  found.frame = byId("v-frame").textContent;
  press("ArrowRight");
  found.nextFrame = byId("v-frame").textContent;
  found.position = byId("l-frames").style.backgroundPosition;
  const inked = () => byId("l-points").getContext("2d").getImageData(0, 0, 480, 640).data.some((value) => value > 0);
  found.pointsOn = inked();
  press("k");
  found.pointsOff = inked();
  const layers = () => ["l-matte", "l-body"].map((id) => byId(id).style.display);
  found.layers = layers();
  press("m");
  press("b");
  found.layersToggled = layers();
  const picture = new Image();
  picture.src = byId("l-body").style.backgroundImage.slice(5, -2);
  await picture.decode();
  found.bodyWidth = picture.naturalWidth;
  press("ArrowDown");
  found.nextTrack = byId("v-where").textContent;
  byId("v-close").click();
  await new Promise((done) => setTimeout(done, 200));
  const members = (view) => [...document.querySelectorAll(`#${view}-groups .group`)]
    .map((group) => [...group.querySelectorAll("figure")].map((figure) => figure.title.trim()));
  for (const view of ["people", "duplicates"]) {
    document.querySelector(`nav button[data-view=${view}]`).click();
    await new Promise((done) => setTimeout(done, 100));
    found[view] = members(view);
    found[`${view}Count`] = byId(`${view}-count`).textContent;
  }
  document.querySelector("nav button[data-view=people]").click();
  await new Promise((done) => setTimeout(done, 100));
  document.querySelector("#people-groups figure").click();
  await new Promise((done) => setTimeout(done, 300));
  found.member = byId("v-where").textContent;
  byId("v-close").click();
  found.hostile = document.title;
  byId("found").textContent = JSON.stringify(found);
}, 50));
</script>
"""


@dataclass(frozen=True)
class Browser:
    program: str
    profile: Path

    def text_of(self, page: Path, element: str) -> str:
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-sync",
            "--disable-component-update",
            "--virtual-time-budget=20000",
            "--dump-dom",
            "--window-size=1400,900",
        ]
        command = [self.program, *flags, f"--user-data-dir={self.profile}", page.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        found = re.search(rf'<pre id="{element}">(.*?)</pre>', dom, re.DOTALL)
        assert found is not None, dom[-2000:]
        return html.unescape(found[1])


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    program = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if program is None:
        pytest.skip("no chromium or google-chrome on the path")
    return Browser(program, tmp_path / "profile")


def test_ten_thousand_tracks_in_a_real_browser(
    browser: Browser, tmp_path: Path, painter: BodyPainter, body_file: Path
) -> None:
    folder = make_run(tmp_path / "run", painter, num_rejected=10_000)
    page = write_report(folder, ReportConfig(body_file=body_file, frames_per_sample=4))
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text().replace("</body>", DRIVER + "</body>"))
    found = json.loads(browser.text_of(driven, "found"))
    assert found["all"] == "10,004 of 10,004 records" and found["firstPage"] == 50
    assert found["secondPage"] == "bad00050"
    assert found["largest"] == ["bad09999", "bad09998"] and found["sortMs"] < 3000
    assert found["blurred"] == "5,000 of 10,004 records"
    assert found["ranged"] == ["bad00013", "bad00011"]
    assert found["accepted"] == ["good0", "good1", "good2"]
    assert found["open"] and found["title"] == "good1"
    assert (found["frame"], found["nextFrame"]) == ("video frame 0", "video frame 3")
    assert found["position"].startswith("-480px")
    assert found["pointsOn"] and not found["pointsOff"]
    assert found["layers"] == ["none", "block"] and found["layersToggled"] == ["block", "none"]
    assert found["bodyWidth"] == 4 * 240
    assert found["people"] == [["good0", "good1"]] and found["peopleCount"] == "1 groups"
    assert found["duplicates"] == [["good1", "good2"]] and found["member"] == "good0"
    assert found["nextTrack"] == "good2" and found["hostile"] == "Curation report"
