"""The published numbers that a study's report shows as context, never as its own result."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "LHM-0.5B, 200 held-out in-the-wild videos, masked metrics; arXiv 2503.10625, table 3"


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row of the paper's table; face consistency is a distance (lower is better)."""

    data: str
    psnr: float
    ssim: float
    lpips: float
    face_consistency: float


PUBLISHED_SCALING = (
    PublishedRow("synthetic only", 19.753, 0.904, 0.060, 0.057),
    PublishedRow("+ 10K videos", 20.692, 0.911, 0.052, 0.048),
    PublishedRow("+ 50K videos", 21.108, 0.915, 0.050, 0.043),
    PublishedRow("+ 100K videos", 21.429, 0.920, 0.049, 0.045),
    PublishedRow("+ all (about 300K)", 21.648, 0.924, 0.044, 0.042),
)
