"""Held-out evaluation: scores per sample, their means, and a sheet of renders that a person can look at."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lhmforge.datasets.batch import Batch
from lhmforge.datasets.config_json import from_json, to_json
from lhmforge.lhm_model.losses import on_white
from lhmforge.lhm_model.metrics import ViewScores, face_consistency, score_views
from lhmforge.lhm_model.model import LHM, LHMOutput
from lhmforge.lhm_model.parallel import ProcessGroup
from lhmforge.lhm_model.perceptual import Perceptual
from lhmforge.lhm_model.train_loop import Precision

# Rendered and true images [N, 3, h, w] in 0..1 and the head boxes [N, 4] of the true ones -> identity vectors of both,
# [N, 2, D] of length 1 (rendered first); NaN rows: the true image shows no face.
FaceEmbedder = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleScores:
    """Means over the views of one held-out sample, in the convention of `metrics`; None: not measurable."""

    sample_id: str
    psnr: float
    psnr_foreground: float
    ssim: float
    lpips: float
    matte_iou: float
    face_consistency: float | None
    num_faces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of all held-out samples; `means` holds only what could be measured."""

    rows: tuple[SampleScores, ...]
    means: dict[str, float]
    seconds_per_image: float  # source image to rendered views; median, so that the first batch's warm-up does not count
    peak_memory_bytes: int | None  # of the GPU; None on a CPU


@torch.no_grad()
def evaluate(
    model: LHM,
    batches: Iterable[Batch],
    *,
    perceptual: Perceptual,
    device: torch.device,
    face_embedder: FaceEmbedder | None = None,
    sheet: Path | None = None,
    sheet_rows: int = 6,
    precision: Precision = "float32",
) -> Evaluation:
    """Scores `model` on finite `batches`; writes the first `sheet_rows` samples as a picture to `sheet` if given.

    `precision` is that of the network; scores are always taken in float32.
    """
    was_training = model.training
    model.eval()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rows: list[SampleScores] = []
    strips: list[Tensor] = []
    seconds: list[float] = []
    for cpu_batch in batches:
        batch = cpu_batch.to(device)
        started = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            output: LHMOutput = model(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append((time.perf_counter() - started) / batch.num_samples)
        faces = _face_distances(output, batch, face_embedder)
        rows += _rows(score_views(output.views, batch, perceptual), batch, faces)
        strips += [
            _strip(batch, output, index) for index in range(batch.num_samples) if len(strips) + index < sheet_rows
        ]
    assert rows, "evaluation needs at least one sample"
    if sheet is not None:
        _save_sheet(strips, sheet)
    model.train(was_training)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Evaluation(
        rows=tuple(rows), means=_means(rows), seconds_per_image=statistics.median(seconds), peak_memory_bytes=peak
    )


def shared_evaluation(own: Evaluation, ids: Sequence[str], group: ProcessGroup) -> Evaluation:
    """The evaluation of `ids` from what each process of `group` judged; a sample judged twice counts once."""
    told = group.gather_strings([json.dumps(to_json(row)) for row in own.rows])
    rows = [from_json(SampleScores, json.loads(text), where="scores") for text in told]
    by_id = {row.sample_id: row for row in reversed(rows)}
    ordered = [by_id[sample_id] for sample_id in ids]
    return replace(own, rows=tuple(ordered), means=_means(ordered))


def _rows(scores: ViewScores, batch: Batch, faces: list[tuple[float | None, int]]) -> list[SampleScores]:
    means = {f.name: getattr(scores, f.name).float().mean(1).tolist() for f in fields(ViewScores)}
    return [
        SampleScores(
            sample_id=sample_id,
            **{name: values[index] for name, values in means.items()},
            face_consistency=faces[index][0],
            num_faces=faces[index][1],
        )
        for index, sample_id in enumerate(batch.sample_ids)
    ]


def _face_distances(output: LHMOutput, batch: Batch, embed: FaceEmbedder | None) -> list[tuple[float | None, int]]:
    """Per sample: mean identity distance over the views with a face in both pictures, and their number."""
    distances: list[tuple[float | None, int]] = []
    for index in range(batch.num_samples):
        boxes = batch.target_head_box[index]
        seen = boxes[:, 2] > boxes[:, 0]
        if embed is None or not bool(seen.any()):
            distances.append((None, 0))
            continue
        true = on_white(batch.target_image[index][seen], batch.target_alpha[index][seen])
        vectors = embed(output.views.colour[index][seen].float(), true, boxes[seen])
        distance, count = face_consistency(vectors[:, 0], vectors[:, 1])
        distances.append((float(distance) if count else None, count))
    return distances


def _means(rows: list[SampleScores]) -> dict[str, float]:
    means: dict[str, float] = {}
    for field in fields(SampleScores):
        values = [getattr(row, field.name) for row in rows]
        known = [value for value in values if isinstance(value, float) and math.isfinite(value)]
        if known:
            means[field.name] = sum(known) / len(known)
    return means


def _strip(batch: Batch, output: LHMOutput, index: int) -> Float[Tensor, "3 h W"]:
    """One row of the sheet: the source, then target and prediction of every view side by side."""
    height = batch.target_image.shape[-2]
    source = batch.source_image[index].cpu()
    width = round(source.shape[-1] * height / source.shape[-2])
    resized = torch.nn.functional.interpolate(source[None], (height, width), mode="bilinear", antialias=True)[0]
    panels = [resized]
    for view in range(batch.target_image.shape[1]):
        target = on_white(batch.target_image[index, view], batch.target_alpha[index, view])
        panels += [target.cpu(), output.views.colour[index, view].float().cpu()]
    return torch.cat(panels, -1)


def _save_sheet(strips: list[Tensor], path: Path) -> None:
    sheet = torch.cat(strips, -2).clamp(0, 1).permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial_{path.name}")
    Image.fromarray(np.round(sheet * 255).astype(np.uint8)).save(partial, format="PNG")
    partial.replace(path)
