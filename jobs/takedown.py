"""Takedown as a job: withdraws sources from a run's folder and writes its report anew."""

from __future__ import annotations

from collections.abc import Sequence

from lhmforge.datasets import storage
from lhmforge.datasets.codecs import decode_json
from lhmforge.datasets.config_json import from_json
from lhmforge.datasets.errors import ForgeError
from lhmforge.jobs.curate import CONFIG_NAME, CurateConfig, exclusive, write_run_report
from lhmforge.pipelines.takedown import TakedownPlan, plan_takedown, take_down


def run_takedown(root: str, source_ids: Sequence[str], *, dry_run: bool = False) -> TakedownPlan:
    """Withdraws the sources for good, or only says what that would touch.

    An interrupted call is finished by the same call. Raises `ForgeError` for an unknown source or a run in progress.
    """
    if not storage.exists(root):
        raise ForgeError(f"{root} does not exist; give the output folder of a curation run")
    if dry_run:
        return plan_takedown(root, source_ids)
    with exclusive(root):
        plan = plan_takedown(root, source_ids)
        take_down(plan)
        place = storage.join_uri(root, CONFIG_NAME)
        if storage.exists(place) and storage.exists(storage.join_uri(root, "manifest.parquet")):
            content = decode_json(storage.read_bytes(place), what=place)
            config = content.get("config") if isinstance(content, dict) else None
            write_run_report(root, from_json(CurateConfig, config, where=place))
    return plan
