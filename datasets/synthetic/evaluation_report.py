"""Writes an evaluation as JSON and as pictures of the worst fits, each with a sentence on what is wrong in it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from lhmforge.datasets import storage
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.body.params import BodyParams
from lhmforge.datasets.codecs import JsonValue, encode_json
from lhmforge.datasets.manifest import Manifest
from lhmforge.datasets.sample import StoredSample
from lhmforge.datasets.synthetic.diagnosis import FrameDiagnosis, diagnose
from lhmforge.datasets.synthetic.evaluate import CurationEvaluation, SampleEvaluation, iter_curated, window
from lhmforge.datasets.synthetic.raster import rasterise
from lhmforge.datasets.synthetic.truth import ClipTruth

_FIT, _TRUTH = (235, 60, 40), (40, 190, 70)
_PICTURE_HEIGHT = 480


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstFit:
    """The worst frame of one of the worst samples, its picture and what is wrong in it."""

    key: str
    source_id: str
    frame: int
    picture: Path
    diagnosis: FrameDiagnosis


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenReport:
    """Where the report lies."""

    json: Path
    worst: tuple[WorstFit, ...]


def write_report(
    evaluation: CurationEvaluation,
    manifest: Manifest,
    truths: Mapping[str, ClipTruth],
    body: BodyModel,
    output: Path,
    *,
    num_worst: int = 5,
    sections: Mapping[str, JsonValue] | None = None,
) -> WrittenReport:
    """Writes `evaluation.json` and `worst_*.png` into `output`; `sections` are further parts of the JSON.

    A picture shows the stored frame, the fit's outline (red), the true outline (green), and where the mattes differ
    (cyan: missing, red: too much). It comes from the frame with the largest MPJPE of each of the worst samples.
    """
    worst = sorted(evaluation.samples, key=lambda sample: -sample.mpjpe_mm)[:num_worst]
    stored = {s.key: s for s in iter_curated(manifest, {e.source_id for e in worst})} if worst else {}
    found = []
    for rank, sample in enumerate(worst):
        picture, fit = _draw_worst(stored[sample.key], sample, truths[sample.source_id], body, output, rank)
        encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
        storage.publish(fit.picture, (encoded.tobytes(),))
        found.append(fit)
    content: dict[str, JsonValue] = {
        "summary": evaluation.summary(),
        "samples_and_persons": asdict(evaluation.tracking),
        "samples": [_row(sample) for sample in evaluation.samples],
        "worst": [_worst_row(fit) for fit in found],
        **(sections or {}),
    }
    report = output / "evaluation.json"
    storage.publish(report, (encode_json(content),))
    return WrittenReport(json=report, worst=tuple(found))


def _worst_row(fit: WorstFit) -> dict[str, JsonValue]:
    return {
        "key": fit.key,
        "source_id": fit.source_id,
        "frame": fit.frame,
        "picture": fit.picture.name,
        "what_is_wrong": fit.diagnosis.sentence,
        "parts_mm": dict(fit.diagnosis.part_mm),
    }


def _row(sample: SampleEvaluation) -> dict[str, JsonValue]:
    return {
        "key": sample.key,
        "source_id": sample.source_id,
        "person": sample.person,
        "num_frames": len(sample.frame_indices),
        "mpjpe_mm": sample.mpjpe_mm,
        "pa_mpjpe_mm": float(sample.pose.pa_mpjpe_mm.mean()),
        "pve_mm": float(sample.pose.pve_mm.mean()),
        "orientation_deg": float(sample.pose.orientation_deg.mean()),
        "shape_mm": sample.pose.shape_mm,
        "reprojection_percent": 100 * float(np.nanmean(sample.reprojection_share)),
        "matte_iou": float(np.mean([m.iou for m in sample.mattes])),
        "switches": sample.switches,
    }


def _draw_worst(
    stored: StoredSample, sample: SampleEvaluation, truth: ClipTruth, body: BodyModel, output: Path, rank: int
) -> tuple[UInt8[np.ndarray, "H W 3"], WorstFit]:
    index = int(sample.pose.mpjpe_mm.argmax())
    frame = int(sample.frame_indices[index])
    diagnosis = diagnose(
        body,
        stored.body.select(np.array([index])),
        truth.persons[sample.person].body.select(np.array([frame])),
        stored.world_to_camera[index : index + 1].astype(np.float64),
        orientation_deg=float(sample.pose.orientation_deg[index]),
        matte_iou=sample.mattes[index].iou,
    )
    fit = WorstFit(
        key=sample.key,
        source_id=sample.source_id,
        frame=frame,
        picture=output / f"worst_{rank:02d}.png",
        diagnosis=diagnosis,
    )
    row = _picture(stored, sample, truth, body, index)
    return _captioned(row, f"{sample.source_id}, frame {frame}. {diagnosis.sentence}"), fit


def _picture(
    stored: StoredSample, sample: SampleEvaluation, truth: ClipTruth, body: BodyModel, index: int
) -> UInt8[np.ndarray, "H W 3"]:
    image, alpha = stored.image(index), stored.alpha(index)
    height, width = alpha.shape
    frame = int(sample.frame_indices[index])
    x0, y0, x1, y1 = window(stored, index)
    scale = np.array([[width / (x1 - x0), 0, 0], [0, height / (y1 - y0), 0], [0, 0, 1]])
    shift = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]])
    true_intrinsics = (scale @ shift @ truth.intrinsics).astype(np.float32)
    person = truth.persons[sample.person]
    outlined = image.copy()
    _outline(outlined, body, person.body.select(np.array([frame])), true_intrinsics, _TRUTH)
    _outline(outlined, body, stored.body.select(np.array([index])), stored.intrinsics[index], _FIT)
    true_alpha = person.alpha(frame)[round(y0) : round(y1), round(x0) : round(x1)]
    true_alpha = cv2.resize(true_alpha, (width, height), interpolation=cv2.INTER_AREA)
    difference = np.stack([alpha, true_alpha, true_alpha], axis=-1)
    row = np.concatenate([image, outlined, difference], axis=1)
    return np.asarray(cv2.resize(row, (round(row.shape[1] * _PICTURE_HEIGHT / height), _PICTURE_HEIGHT)), np.uint8)


def _captioned(picture: UInt8[np.ndarray, "H W 3"], text: str) -> UInt8[np.ndarray, "K W 3"]:
    """The picture with lines of text below it."""
    width = picture.shape[1]
    lines: Sequence[str] = textwrap.wrap(text, max(20, int(width / 6.4)))
    strip = np.full((20 * len(lines) + 8, width, 3), 255, np.uint8)
    for number, line in enumerate(lines):
        place = (6, 18 + 20 * number)
        cv2.putText(strip, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([picture, strip])


def _outline(
    image: UInt8[np.ndarray, "H W 3"],
    body: BodyModel,
    params: BodyParams,
    intrinsics: Float32[np.ndarray, "3 3"],
    colour: tuple[int, int, int],
) -> None:
    vertices = body.pose(params).vertices[0].numpy()
    faces = body.faces.numpy().astype(np.int32)
    height, width = image.shape[:2]
    inside = rasterise(vertices, faces, intrinsics, width=width, height=height).face_id >= 0
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, max(1, height // 320))
