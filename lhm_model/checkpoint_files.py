"""The files of torch.distributed.checkpoint, read without trusting them.

Its `.metadata` is a pickle; here only the few plain classes it is made of may be named in it. The tensors themselves
are read with `weights_only`.
"""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from lhmforge.datasets.errors import CheckpointError

METADATA = ".metadata"
_ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size", "float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "bool"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "WindowsPath"},
    "collections": {"OrderedDict"},
}  # fmt: skip


def silence_single_process_warning() -> None:
    """Saving and loading alone is meant: torch warns about it each time."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


def read_table(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Tensor name -> what the checkpoint in `folder` says about it; raises `CheckpointError`."""
    return _tensors(_Reader(folder).read_metadata(), folder)


def read_into(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fills `tensors` (sharded or whole, on any device) in place; their names and shapes must be in `read_table`.

    Needs no other process: each reads what it holds.
    """
    silence_single_process_warning()
    load(dict(tensors), storage_reader=_Reader(folder), no_dist=True)


def read_tensors(folder: Path, prefixes: Sequence[str]) -> dict[str, Tensor]:
    """All tensors whose name begins with one of `prefixes`, whole, on the CPU."""
    table = read_table(folder)
    chosen = {name: entry for name, entry in table.items() if name.startswith(tuple(prefixes))}
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in chosen.items()}
    read_into(folder, tensors)
    return tensors


def check_complete(folder: Path) -> None:
    """Raises `CheckpointError` unless every tensor is covered by chunks and every chunk lies inside its file."""
    metadata = _Reader(folder).read_metadata()
    for name, entry in _tensors(metadata, folder).items():
        covered = sum(math.prod(chunk.sizes) for chunk in entry.chunks)
        if covered != math.prod(entry.size):
            raise CheckpointError(f"{folder}: {covered} of {math.prod(entry.size)} numbers of {name} were written")
    for index, place in metadata.storage_data.items():
        path = folder / place.relative_path
        size = path.stat().st_size if path.is_file() else 0
        if place.offset + place.length > size:
            raise CheckpointError(f"{path}: has {size} bytes, {index.fqn} ends at {place.offset + place.length}")


class _Reader(FileSystemReader):
    """The library's reader, with the pickle held to the classes it needs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        path = self._folder / METADATA
        try:
            with path.open("rb") as file:
                metadata = _PlainUnpickler(file).load()
        except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{path}: unreadable ({error})") from None
        if not isinstance(metadata, Metadata):
            raise CheckpointError(f"{path}: holds a {type(metadata).__name__}, not a checkpoint's metadata")
        return metadata


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"names {module}.{name}, which no checkpoint of this program holds")
        return super().find_class(module, name)


def _tensors(metadata: Metadata, folder: Path) -> dict[str, TensorStorageMetadata]:
    found = {}
    for name, entry in metadata.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise CheckpointError(f"{folder}: {name} is no tensor")
        found[name] = entry
    return found
