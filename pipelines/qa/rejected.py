"""Pictures of tracks that were turned down, cut out of their source videos, so that a person can judge the gates.

A track that got as far as its fit is shown with matte, keypoints and body, out of the stage cache; an earlier one with
its box alone. A source that is not on this machine any more has no pictures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Float32, UInt8
from tqdm import tqdm

from lhmforge.datasets import storage
from lhmforge.datasets.codecs import decode_png
from lhmforge.datasets.errors import ShardError, VideoError
from lhmforge.datasets.keyed import keyed_order
from lhmforge.datasets.manifest import REJECTED
from lhmforge.datasets.records import FittedTrack, SourceVideo, TrackPath
from lhmforge.datasets.track_paths import PATHS_FOLDER, read_paths
from lhmforge.pipelines.boxes import window_around
from lhmforge.pipelines.ledger import Ledger
from lhmforge.pipelines.qa.mesh_overlay import BodyPainter
from lhmforge.pipelines.qa.pictures import SamplePictures, publish_pictures
from lhmforge.pipelines.qa.tiles import TILE, Tile, spread_frames
from lhmforge.pipelines.record_codec import decode_records
from lhmforge.pipelines.video import frames

_TRACK_KEY = re.compile(r"[0-9a-f]{16}_\d{6}_\d{6}_p\d{2}")
_PADDING = 1.3  # of the box: what the gate objected to may lie beside it
_BOX_COLOUR = (255, 176, 0)
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """A turned-down track: its row, its boxes, and its fit when there is one."""

    row: pd.Series
    path: TrackPath
    fitted: FittedTrack | None


def write_rejected_pictures(
    report: str,
    root: str,
    rows: pd.DataFrame,
    *,
    limit: int,
    num_tiles: int,
    fit_fingerprint: str,
    painter: BodyPainter | None,
) -> dict[str, SamplePictures]:
    """Pictures of at most `limit` turned-down tracks, chosen by a keyed order; key -> where they lie."""
    tracks = rows[(rows["status"] == REJECTED) & rows["key"].str.fullmatch(_TRACK_KEY.pattern) & (rows["uri"] != "")]
    chosen = set(keyed_order("report", tracks["key"])[:limit])
    tracks = tracks[tracks["key"].isin(chosen)]
    if tracks.empty:
        return {}
    ledger = Ledger(root)
    paths = _paths(ledger)
    found: dict[str, SamplePictures] = {}
    for uri, group in tqdm(tracks.groupby("uri", sort=True), desc="report, turned down", unit="video"):
        place = str(uri).removeprefix("file://")
        if not Path(place).is_file():
            continue
        fits = _fits(ledger, fit_fingerprint, group) if fit_fingerprint else {}
        shown = [
            _Shown(row=row, path=paths[row["key"]], fitted=fits.get(row["key"]))
            for _, row in group.iterrows()
            if row["key"] in paths and len(paths[row["key"]].frame_indices)
        ]
        for item in shown:
            pictures = _write(report, place, item, num_tiles, painter)
            if pictures is not None:
                found[item.row["key"]] = pictures
    return found


def _paths(ledger: Ledger) -> dict[str, TrackPath]:
    """The boxes of all tracks of the run, by track key."""
    units = [Path(name).stem for name in storage.list_files(ledger.place(PATHS_FOLDER)) if name.endswith(".parquet")]
    return {path.key: path for found in read_paths(ledger.root, sorted(units)).values() for path in found}


def _fits(ledger: Ledger, fingerprint: str, group: pd.DataFrame) -> dict[str, FittedTrack]:
    """The fits of a video's tracks out of the stage cache; none when they are gone."""
    row = group.iloc[0]
    data = ledger.get("fit", fingerprint, row["video_digest"]) if row["video_digest"] else None
    if data is None:
        return {}
    try:
        records = decode_records(data, source=SourceVideo(uri=row["uri"], source_id=row["source_id"]))[0]
    except ShardError:  # a torn or older entry is as good as none
        return {}
    return {record.key: record for record in records if isinstance(record, FittedTrack)}


def _write(report: str, video: str, item: _Shown, num_tiles: int, painter: BodyPainter | None) -> SamplePictures | None:
    fitted = item.fitted
    has_body = fitted is not None and painter is not None and painter.body_digest == fitted.body_digest
    count = min(num_tiles, len(item.path.frame_indices))
    text = f"{item.row['key']} {item.row['fingerprint']} {num_tiles} {has_body} {fitted is not None} {_VERSION}"
    mark = hashlib.sha256(text.encode()).hexdigest()
    pictures = SamplePictures(
        stem=f"tracks/{mark[:2]}/{item.row['key']}-{mark[:10]}",
        num_tiles=count,
        has_body=has_body,
        has_matte=fitted is not None,
    )
    if not storage.exists(storage.join_uri(report, f"{pictures.stem}.js")):
        places = spread_frames(len(item.path.frame_indices), num_tiles)
        try:
            tiles = list(_tiles(video, item, places, painter if has_body else None))
        except VideoError:
            return None
        indices = [int(item.path.frame_indices[place]) for place in places]
        publish_pictures(report, pictures, item.row["key"], tiles, frames=indices, values={})
    return pictures


def _tiles(video: str, item: _Shown, places: np.ndarray, painter: BodyPainter | None) -> Iterator[Tile]:
    images = frames(video, item.path.frame_indices[places])
    for number, (place, image) in enumerate(zip(places.tolist(), images, strict=True)):
        fit = _into_tile(item.path.boxes_px[place], image.shape[1], image.shape[0])
        picture = cv2.warpAffine(np.ascontiguousarray(image), fit[:2], TILE, flags=cv2.INTER_AREA)
        box = (item.path.boxes_px[place].reshape(2, 2) * fit[0, 0] + fit[:2, 2]).round().astype(int)
        cv2.rectangle(picture, box[0].tolist(), box[1].tolist(), _BOX_COLOUR, 1)
        yield _annotated(item.fitted, number, place, picture, image.shape[:2], fit, painter)


def _annotated(
    fitted: FittedTrack | None,
    number: int,
    place: int,
    picture: UInt8[np.ndarray, "H W 3"],
    size: Sequence[int],
    fit: Float32[np.ndarray, "3 3"],
    painter: BodyPainter | None,
) -> Tile:
    """The tile with what the fit's record knows about the frame."""
    points, scores = np.zeros((133, 2), np.float32), np.zeros(133, np.float32)
    alpha, body = np.full((TILE[1], TILE[0]), 255, np.uint8), None
    if fitted is not None:
        keypoints, matte = fitted.keypointed.keypoints, fitted.keypointed.matted.alphas[place]
        points = (keypoints.points_px[place] * fit[[0, 1], [0, 1]] + fit[:2, 2]).astype(np.float32)
        scores = keypoints.scores[place]
        whole = np.zeros((size[0], size[1]), np.uint8)
        x0, y0, x1, y1 = matte.window_px
        whole[y0:y1, x0:x1] = decode_png(matte.png, what="matte")
        alpha = np.asarray(cv2.warpAffine(whole, fit[:2], TILE, flags=cv2.INTER_AREA), np.uint8)
        if painter is not None:
            camera = (fit @ fitted.intrinsics)[None].astype(np.float32)
            eye = np.eye(4, dtype=np.float32)[None]
            chosen = fitted.body.select(np.array([place]))
            body = painter.paint(chosen, intrinsics=camera, world_to_camera=eye, size=TILE)[0]
    return Tile(frame=number, image=picture, alpha=alpha, points_px=points, point_scores=scores, body=body)


def _into_tile(box: Float32[np.ndarray, 4], width: int, height: int) -> Float32[np.ndarray, "3 3"]:
    """The pixel transform that puts the padded box into the middle of a tile."""
    x0, y0, x1, y1 = window_around(box, padding=_PADDING, width=width, height=height)
    scale = min(TILE[0] / (x1 - x0), TILE[1] / (y1 - y0))
    shift = (TILE[0] - (x0 + x1) * scale) / 2, (TILE[1] - (y0 + y1) * scale) / 2
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]], np.float32)
