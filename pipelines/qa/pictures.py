"""The pictures of each accepted sample: a strip of frames, strips that lie over it, a thumbnail, and contact sheets.

A page opened from a file may load pictures and scripts but may not fetch data, so the numbers of a sample (keypoints,
per-frame values) are a small script of their own. File names carry the sample's sha256: what exists is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from jaxtyping import UInt8

from lhmforge.datasets import storage
from lhmforge.datasets.codecs import JsonValue, encode_jpeg, encode_json
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.sample import StoredSample, parse_sample
from lhmforge.datasets.shards import ShardEntry, read_sample
from lhmforge.pipelines.qa.mesh_overlay import BodyPainter
from lhmforge.pipelines.qa.tiles import (
    MIN_SCORE,
    TILE,
    Tile,
    cut_tiles,
    spread_frames,
    with_body,
    with_keypoints,
    with_matte,
)

THUMBNAIL = (72, 96)
_SHEET_TILE = (135, 180)
_SHEET_FRAMES = 4
_SHEET_LABEL_PX = 22
_VERSION = 1  # raised when the pictures change, so that older ones are not taken for new ones


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePictures:
    """Where the pictures of one sample or turned-down track lie, relative to the report, and what they show."""

    stem: str  # + .frames.jpg, .matte.webp (if has_matte), .body.webp (if has_body), .thumb.jpg, .js
    num_tiles: int
    has_body: bool
    has_matte: bool = True


def load_sample(manifest: Manifest, row: pd.Series) -> StoredSample:
    """The sample of a manifest row; raises `ShardError` when its shard is missing or altered."""
    entry = ShardEntry(key=row["key"], offset=int(row["offset"]), num_bytes=int(row["num_bytes"]), sha256=row["sha256"])
    return parse_sample(read_sample(manifest.shard_uri(row["shard"]), entry))


def write_pictures(
    report: str, manifest: Manifest, row: pd.Series, *, num_tiles: int, painter: BodyPainter | None
) -> SamplePictures:
    """Makes the pictures of a sample unless they exist; the script is published last and stands for all."""
    has_body = painter is not None and painter.body_digest == row["body_digest"]
    mark = f"{row['sha256'][:10]}v{_VERSION}n{num_tiles}{'b' if has_body else ''}"
    pictures = SamplePictures(
        stem=f"tracks/{row['sha256'][:2]}/{row['key']}-{mark}",
        num_tiles=min(num_tiles, int(row["num_frames"])),
        has_body=has_body,
    )
    place = storage.join_uri(report, pictures.stem)
    if storage.exists(f"{place}.js"):
        return pictures
    sample = load_sample(manifest, row)
    frames = spread_frames(sample.num_frames, num_tiles)
    tiles = cut_tiles(sample, frames, size=TILE, painter=painter if has_body else None)
    indices, values = sample.meta.get("frame_indices"), sample.meta.get("frame_values")
    shown = [tile.frame for tile in tiles]
    publish_pictures(
        report,
        pictures,
        sample.key,
        tiles,
        frames=[indices[frame] for frame in shown] if isinstance(indices, list) else list(shown),
        values={
            str(name): [round(float(series[frame]), 4) for frame in shown]
            for name, series in (values.items() if isinstance(values, dict) else ())
        },
    )
    return pictures


def publish_pictures(
    report: str,
    pictures: SamplePictures,
    key: str,
    tiles: Sequence[Tile],
    *,
    frames: Sequence[JsonValue],
    values: Mapping[str, Sequence[float]],
) -> None:
    """Writes the strips, the thumbnail and, last, the script: numbers of the frames, keypoints, values per frame."""
    assert len(tiles) == pictures.num_tiles
    place = storage.join_uri(report, pictures.stem)
    storage.publish(f"{place}.frames.jpg", (encode_jpeg(np.hstack([tile.image for tile in tiles]), quality=80),))
    if pictures.has_matte:
        storage.publish(f"{place}.matte.webp", (_webp(np.hstack([_matte_veil(tile) for tile in tiles])),))
    bodies = [tile.body for tile in tiles if tile.body is not None]
    if bodies:
        storage.publish(f"{place}.body.webp", (_webp(np.hstack(bodies)),))
    thumbnail = cv2.resize(with_matte(tiles[len(tiles) // 2]), THUMBNAIL, interpolation=cv2.INTER_AREA)
    storage.publish(f"{place}.thumb.jpg", (encode_jpeg(thumbnail, quality=80),))
    shown: dict[str, JsonValue] = {
        "frames": list(frames),
        "points": [_seen_points(tile) for tile in tiles],
        "values": {name: list(series) for name, series in values.items()},
    }
    call = f"receiveTrack({encode_json(key).decode().strip()},{encode_json(shown).decode().strip()});\n"
    storage.publish(f"{place}.js", (call.encode(),))


def write_contact_sheet(
    report: str, name: str, manifest: Manifest, rows: pd.DataFrame, *, painter: BodyPainter | None
) -> None:
    """One sheet: a line per sample with four frames, each as matte, keypoints and body; left alone if it exists."""
    place = storage.join_uri(report, name)
    if not storage.exists(place):
        lines = [_sheet_line(load_sample(manifest, row), row, painter) for _, row in rows.iterrows()]
        storage.publish(place, (encode_jpeg(np.vstack(lines), quality=85),))


def _sheet_line(sample: StoredSample, row: pd.Series, painter: BodyPainter | None) -> UInt8[np.ndarray, "H W 3"]:
    frames = spread_frames(sample.num_frames, _SHEET_FRAMES)
    known = painter if painter is not None and painter.body_digest == row["body_digest"] else None
    tiles = cut_tiles(sample, frames, size=TILE, painter=known)
    pictures = [view(tile) for tile in tiles for view in (with_matte, with_keypoints, with_body)]
    pictures += [np.full((TILE[1], TILE[0], 3), 245, np.uint8)] * (3 * _SHEET_FRAMES - len(pictures))
    small = [cv2.resize(picture, _SHEET_TILE, interpolation=cv2.INTER_AREA) for picture in pictures]
    line = np.hstack(small)
    label = np.full((_SHEET_LABEL_PX, line.shape[1], 3), 245, np.uint8)
    text = f"{row['source_id']}  person {row['person']}  {row['num_frames']} frames  reprojection {_percent(row)}"
    printable = text.encode("ascii", "replace").decode()
    cv2.putText(label, printable, (6, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([label, line])


def _percent(row: pd.Series) -> str:
    value = row["score_reprojection"]
    return "not measured" if pd.isna(value) else f"{100 * value:.1f} % of the box"


def _matte_veil(tile: Tile) -> UInt8[np.ndarray, "H W 4"]:
    """What the matte leaves out, as a dark red veil to lie over the frame."""
    veil = np.empty((*tile.alpha.shape, 4), np.uint8)
    veil[..., :3] = (90, 16, 40)
    veil[..., 3] = ((255 - tile.alpha.astype(np.uint16)) * 205 // 255).astype(np.uint8)
    return veil


def _webp(rgba: UInt8[np.ndarray, "H W 4"]) -> bytes:
    written, data = cv2.imencode(".webp", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_WEBP_QUALITY, 60])
    assert written, f"OpenCV could not encode a WebP of shape {rgba.shape}"
    return bytes(data)


def _seen_points(tile: Tile) -> list[JsonValue]:
    seen = np.flatnonzero((tile.point_scores >= MIN_SCORE) & np.isfinite(tile.points_px).all(axis=1))
    return [[int(index), *(round(float(value), 1) for value in tile.points_px[index])] for index in seen]
