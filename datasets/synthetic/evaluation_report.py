"""Writes an evaluation as JSON and as pictures of the worst frames, fit and truth drawn over the stored frame."""

from __future__ import annotations

from dataclasses import asdict
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
from lhmforge.datasets.synthetic.evaluate import CurationEvaluation, SampleEvaluation, iter_curated, window
from lhmforge.datasets.synthetic.raster import rasterise
from lhmforge.datasets.synthetic.truth import ClipTruth

_FIT, _TRUTH = (235, 60, 40), (40, 190, 70)
_PICTURE_HEIGHT = 480


def write_report(
    evaluation: CurationEvaluation,
    manifest: Manifest,
    truths: dict[str, ClipTruth],
    body: BodyModel,
    output: Path,
    *,
    num_worst: int = 5,
) -> tuple[Path, ...]:
    """Writes `evaluation.json` and `worst_*.png` into `output`; returns the paths, JSON first.

    A picture shows the stored frame, the fit's outline (red), the true outline (green), and where the mattes differ.
    """
    content: dict[str, JsonValue] = {
        "summary": evaluation.summary(),
        "tracking": asdict(evaluation.tracking),
        "samples": [_row(sample) for sample in evaluation.samples],
    }
    report = output / "evaluation.json"
    storage.publish(report, (encode_json(content),))
    worst = sorted(evaluation.samples, key=lambda sample: -sample.mpjpe_mm)[:num_worst]
    stored = {s.key: s for s in iter_curated(manifest, {e.source_id for e in worst})}
    paths = [report]
    for rank, sample in enumerate(worst):
        picture = _picture(stored[sample.key], sample, truths[sample.source_id], body)
        path = output / f"worst_{rank:02d}.png"
        encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
        storage.publish(path, (encoded.tobytes(),))
        paths.append(path)
    return tuple(paths)


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


def _picture(
    stored: StoredSample, sample: SampleEvaluation, truth: ClipTruth, body: BodyModel
) -> UInt8[np.ndarray, "H W 3"]:
    index = int(sample.pose.mpjpe_mm.argmax())
    image, alpha = stored.image(index), stored.alpha(index)
    height, width = alpha.shape
    frame = int(sample.frame_indices[index])
    x0, y0, x1, y1 = window(stored, index)
    scale = np.array([[width / (x1 - x0), 0, 0], [0, height / (y1 - y0), 0], [0, 0, 1]])
    shift = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]])
    true_intrinsics = (scale @ shift @ truth.intrinsics).astype(np.float32)
    person = truth.persons[sample.person]
    outlined = image.copy()
    _outline(outlined, body, stored.body.select(np.array([index])), stored.intrinsics[index], _FIT)
    _outline(outlined, body, person.body.select(np.array([frame])), true_intrinsics, _TRUTH)
    true_alpha = person.alpha(frame)[round(y0) : round(y1), round(x0) : round(x1)]
    true_alpha = cv2.resize(true_alpha, (width, height), interpolation=cv2.INTER_AREA)
    difference = np.stack([alpha, true_alpha, true_alpha], axis=-1)
    row = np.concatenate([image, outlined, difference], axis=1)
    grown = cv2.resize(row, (round(row.shape[1] * _PICTURE_HEIGHT / height), _PICTURE_HEIGHT))
    text = f"{sample.source_id} frame {frame}: MPJPE {sample.pose.mpjpe_mm[index]:.0f} mm"
    cv2.putText(grown, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(grown, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return np.asarray(grown, np.uint8)


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
