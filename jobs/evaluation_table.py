"""An evaluation as text for people: the paper's columns, then every held-out clip, then the conventions."""

from __future__ import annotations

import resource
import sys

from lhmforge.lhm_model.evaluate import Evaluation, SampleScores
from lhmforge.lhm_model.perceptual import Trunk

# field, heading, digits, whether higher is better
_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("psnr", "PSNR dB ↑", 3),
    ("ssim", "SSIM ↑", 3),
    ("lpips", "LPIPS ↓", 3),
    ("face_consistency", "FC ↓", 3),
    ("psnr_foreground", "PSNR in the matte ↑", 3),
    ("matte_iou", "matte IoU ↑", 3),
)


def peak_resident_bytes() -> int:
    """The most memory that this process held so far, all of it (weights, data, libraries)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def to_markdown(result: Evaluation, *, title: str, faces: str, trunk: Trunk, device: str) -> str:
    """The table as Markdown; what could not be measured is a dash."""
    if result.peak_memory_bytes is not None:
        memory = f"{result.peak_memory_bytes / 1e9:.2f} GB of GPU memory"
    else:
        memory = f"{peak_resident_bytes() / 1e9:.2f} GB resident"
    lines = [f"# {title}", "", f"{len(result.rows)} held-out people, the first frontal frame of each as input.", ""]
    lines += [_row("", *(heading for _, heading, _ in _COLUMNS), "s per image", "peak memory")]
    lines += [_row(*["---"] * (len(_COLUMNS) + 3))]
    means = [_number(result.means.get(name), digits) for name, _, digits in _COLUMNS]
    lines += [_row("mean", *means, f"{result.seconds_per_image:.3f} ({device})", memory)]
    lines += ["", _row("clip", *(heading for _, heading, _ in _COLUMNS), "views with a face")]
    lines += [_row(*["---"] * (len(_COLUMNS) + 2))]
    lines += [_clip(row) for row in result.rows]
    face = {"none": "not measured", "sface": "the embedded SFace"}.get(faces, f"the file {faces}")
    lines += [
        "",
        "Target and rendering are cut by the true matte and laid on white; PSNR and SSIM over the whole frame, "
        f"LPIPS v0.1 with the {trunk} trunk. FC: mean Euclidean distance of unit face vectors (0: the same face, 1.41: "
        f"unrelated), {face}; the face is found in the true image and the same place is cut from the rendering. "
        "Seconds: median, from the source picture to all target views rendered.",
        "",
    ]
    return "\n".join(lines)


def _clip(row: SampleScores) -> str:
    scores = [_number(getattr(row, name), digits) for name, _, digits in _COLUMNS]
    return _row(row.sample_id, *scores, str(row.num_faces))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
