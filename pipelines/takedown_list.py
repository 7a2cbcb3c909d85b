"""The sources whose samples were withdrawn for good: a list in the run's folder that every later run obeys.

It knows a source by its id and by its content, so that neither comes back under another name. It holds no more than
that: ids, digests and sizes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from lhmforge.datasets import storage
from lhmforge.datasets.codecs import encode_json
from lhmforge.datasets.config_json import from_json, to_json
from lhmforge.datasets.errors import ConfigError, ForgeError, StorageError
from lhmforge.datasets.records import Reject, SourceVideo
from lhmforge.pipelines.corpus import CorpusItem

LIST_NAME = "takedown.json"
STAGE, REASON = "takedown", "taken_down"
_VERSION = 1
_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """One source that must not come back; the digest is empty where its content was never read."""

    source_id: str
    digest: str = ""
    num_bytes: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class TakedownList:
    """The content of the file; entries are sorted by id."""

    version: int = _VERSION
    entries: tuple[Withdrawn, ...] = ()

    @property
    def source_ids(self) -> frozenset[str]:
        return frozenset(entry.source_id for entry in self.entries)

    @property
    def digests(self) -> frozenset[str]:
        return frozenset(entry.digest for entry in self.entries if entry.digest)

    def with_entries(self, added: Sequence[Withdrawn]) -> TakedownList:
        """The list with more entries; a known digest is not forgotten."""
        by_id = {entry.source_id: entry for entry in self.entries}
        for entry in added:
            if entry.digest or entry.source_id not in by_id:
                by_id[entry.source_id] = entry
        return replace(self, entries=tuple(by_id[name] for name in sorted(by_id)))


def read_list(root: str) -> TakedownList:
    """The list of a run's folder, empty when there is none; raises `ForgeError` for a damaged one: it is a promise."""
    place = storage.join_uri(root, LIST_NAME)
    if not storage.exists(place):
        return TakedownList()
    try:
        found = from_json(TakedownList, json.loads(storage.read_bytes(place)), where=place)
    except (ConfigError, ValueError) as error:
        raise ForgeError(f"{place} is damaged ({error}); restore it, else withdrawn sources would come back") from None
    if found.version != _VERSION:
        raise ForgeError(f"{place} has version {found.version}; this program reads version {_VERSION}")
    return found


def write_list(root: str, content: TakedownList) -> None:
    """Publishes the list."""
    storage.publish(storage.join_uri(root, LIST_NAME), (encode_json(to_json(content)),))


def mark_withdrawn(items: Sequence[CorpusItem], content: TakedownList) -> tuple[CorpusItem, ...]:
    """The items with `taken_down` set on those whose id or content is on the list.

    Only files of a listed size are read. What duplicates a withdrawn source has its content, and is withdrawn with it.
    """
    if not content.entries:
        return tuple(items)
    ids, digests = content.source_ids, content.digests
    sizes = {entry.num_bytes for entry in content.entries if entry.digest}
    suspects = [item for item in items if item.num_bytes in sizes and item.source.source_id not in ids]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip((item.source.source_id for item in suspects), pool.map(_digest, suspects), strict=True))

    def is_withdrawn(item: CorpusItem) -> bool:
        name = item.source.source_id
        return name in ids or item.duplicate_of in ids or found.get(name, "") in digests

    return tuple(replace(item, taken_down=True) if is_withdrawn(item) else item for item in items)


def withdrawn(source_id: str) -> Reject:
    """The reject that stands for a withdrawn source; nothing of what its owner said about it is kept."""
    source = SourceVideo(uri="", source_id=source_id)
    return Reject(key=source_id, source=source, stage=STAGE, reason=REASON, detail="withdrawn by `lhmforge takedown`")


def _digest(item: CorpusItem) -> str:
    try:
        return storage.file_digest(item.source.uri).sha256
    except StorageError:
        return ""
