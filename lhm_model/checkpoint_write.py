"""Writes checkpoints beside training: the loop waits for a copy in host memory, threads do the rest.

Every process writes its part with torch.distributed.checkpoint; then digests are gathered, process 0 checks the whole,
puts the record in, renames the folder, and removes what the retention does not keep. Killing any process at any moment
leaves the checkpoints published before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.state_dict_saver import async_save

from lhmforge.datasets import storage
from lhmforge.datasets.config_json import to_json
from lhmforge.datasets.errors import CheckpointError, ForgeError
from lhmforge.lhm_model.checkpoint import (
    FORMAT,
    PARTIAL,
    RECORD,
    CheckpointOrigin,
    CheckpointRecord,
    Retention,
    clear_partial,
    file_sha256,
    folder_name,
    retain,
)
from lhmforge.lhm_model.checkpoint_files import METADATA, check_complete, silence_single_process_warning
from lhmforge.lhm_model.checkpoint_state import state_tensors
from lhmforge.lhm_model.parallel import ProcessGroup
from lhmforge.lhm_model.train_loop import TrainState


class CheckpointWriter:
    """Saves below `root`, one checkpoint at a time; all processes make one and call the same methods in one order.

    Making it removes what killed processes left unfinished. Host memory for one copy of what a process holds is kept
    (pinned, with CUDA) until `close`.
    """

    def __init__(self, root: Path, origin: CheckpointOrigin, *, group: ProcessGroup, retention: Retention) -> None:
        self._root, self._origin, self._retention = root, origin, retention
        self._rank, self._side = group.rank, group.side_group()
        self._stager = _HostCopy()
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="publish_checkpoint")
        self._pending: Future[Path] | None = None
        if group.rank == 0:
            root.mkdir(parents=True, exist_ok=True)
            clear_partial(root)
        group.barrier()

    def save(self, state: TrainState, scores: Mapping[str, float]) -> None:
        """Begins to save `state`, which may change as soon as this returns; waits for an earlier save to end.

        Raises `CheckpointError` when that earlier save failed, on every process alike.
        """
        self.wait()
        record = _record(state, self._origin, scores)
        final = self._root / folder_name(record.step)
        partial = self._root / f"{PARTIAL}{final.name}"
        silence_single_process_warning()
        writing = async_save(
            state_tensors(state),
            storage_writer=FileSystemWriter(partial, sync_files=True),
            process_group=self._side,
            async_stager=self._stager,
        )
        assert isinstance(writing, Future), "staging is synchronous"
        publication = _Publication(
            partial=partial, final=final, record=record, rank=self._rank, side=self._side, retention=self._retention
        )
        self._pending = self._publisher.submit(publication.run, writing)

    def wait(self) -> None:
        """Returns when the last save is published; raises `CheckpointError` when it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    @property
    def idle(self) -> bool:
        """Whether nothing is being written (on this process)."""
        return self._pending is None or self._pending.done()

    def close(self) -> None:
        """Waits, and gives the host memory back."""
        try:
            self.wait()
        finally:
            self._publisher.shutdown()
            self._stager.close()


class _HostCopy(AsyncStager):
    """Copies tensors into host memory that is kept from save to save.

    Some versions of torch's own `DefaultStager` (2.11) give theirs back after one save, and fail at the second.
    """

    _synchronize_after_execute = False

    def __init__(self) -> None:
        self._on_gpu = torch.cuda.is_available()
        self._stager = StateDictStager(pin_memory=self._on_gpu)

    def stage(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """A copy that later steps do not change."""
        copied: dict[str, Tensor] = self._stager.stage(state_dict, non_blocking=self._on_gpu)
        if self._on_gpu:
            torch.cuda.synchronize()
        return copied

    def synchronize_staging(self) -> None:
        """`stage` has waited already."""
        return

    def close(self) -> None:
        self._stager.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Publication:
    """What happens to one save after the copy, in a thread of every process."""

    partial: Path
    final: Path
    record: CheckpointRecord
    rank: int
    side: dist.ProcessGroup | None
    retention: Retention

    def run(self, writing: Future[Metadata]) -> Path:
        digests, failure = self._own_digests(writing)
        shares = self._gather((digests, failure))
        failures = [text for _, text in shares if text]
        if self.rank == 0 and not failures:
            failures = self._attempt_publish({name: digest for share, _ in shares for name, digest in share.items()})
        failures = self._from_first(failures)
        if failures:
            raise CheckpointError(f"{self.final}: could not be written: {'; '.join(failures)}")
        return self.final

    def _own_digests(self, writing: Future[Metadata]) -> tuple[dict[str, str], str]:
        """sha256 of the files this process wrote, or why there are none."""
        try:
            writing.result()
            names = [path.name for path in self.partial.glob(f"__{self.rank}_*")]
            names += [METADATA] if self.rank == 0 else []
            return {name: file_sha256(self.partial / name) for name in names}, ""
        except CheckpointException as error:
            causes = {str(wrapped[0]) for wrapped in error.failures.values()}
            return {}, f"{', '.join(sorted(causes))} (is the disk full?)"
        except OSError as error:
            return {}, str(error)

    def _attempt_publish(self, digests: dict[str, str]) -> list[str]:
        try:
            check_complete(self.partial)
            record = replace(self.record, sha256=dict(sorted(digests.items())))
            storage.publish(self.partial / RECORD, (json.dumps(to_json(record), indent=1).encode() + b"\n",))
            _rename(self.partial, self.final)
            retain(self.final.parent, self.retention)
        except (ForgeError, OSError) as error:
            return [str(error)]
        return []

    def _gather(self, share: tuple[dict[str, str], str]) -> list[tuple[dict[str, str], str]]:
        if self.side is None:
            return [share]
        shares = [share] * dist.get_world_size(self.side)
        dist.all_gather_object(shares, share, group=self.side)
        return shares

    def _from_first(self, failures: list[str]) -> list[str]:
        if self.side is None:
            return failures
        sent: list[list[str]] = [failures]
        dist.broadcast_object_list(sent, src=0, group=self.side)
        return sent[0]


def _record(state: TrainState, origin: CheckpointOrigin, scores: Mapping[str, float]) -> CheckpointRecord:
    return CheckpointRecord(
        format=FORMAT,
        **asdict(state.counters),
        num_parameters=sum(p.numel() for p in state.bare_model.parameters() if p.requires_grad),
        position=state.batches.state_dict(),
        scores=dict(scores),
        **{name: getattr(origin, name) for name in origin.__slots__},
    )


def _rename(partial: Path, final: Path) -> None:
    """The moment of publication; a checkpoint of the same step is put aside first."""
    _flush(partial)
    replaced = final.with_name(f"{PARTIAL}replaced_{final.name}")
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    _flush(final.parent)
    if replaced.exists():
        clear_partial(final.parent)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
