"""`lhmforge assets list | fetch | verify`: the weights, body data and clips of the default path."""

from __future__ import annotations

from typing import Annotated

import typer

from lhmforge.datasets.asset_table import ASSETS, Asset

app = typer.Typer(no_args_is_help=True, help=__doc__)
Names = Annotated[list[str] | None, typer.Argument(help="asset names; none: the default set")]


@app.command("list")
def list_assets() -> None:
    """Prints every asset with package, size, licence and where its file lies; then the user-supplied weights."""
    from rich.console import Console
    from rich.table import Table

    from lhmforge.datasets.assets import cache_root, cached_file
    from lhmforge.jobs.user_files import USER_FILES

    console = Console(width=None if Console().is_terminal else 220)
    table = Table("name", "role", "package", "inner path", "bytes", "sha256", "licence", "cached", "official source")
    for asset in ASSETS:
        table.add_row(
            asset.name, asset.role, f"{asset.package}=={asset.version}", asset.inner or "(whole archive)",
            f"{asset.num_bytes:,}",
            asset.sha256[:16], asset.licence, "yes" if cached_file(asset).is_file() else "no", asset.official,
        )  # fmt: skip
    console.print(table)
    console.print(f"cache: {cache_root()}")
    supplied = Table("role", "backend", "what", "format", "licence", "commercial", "official source", "example")
    supplied.title = "supplied by the user, never downloaded"
    for row in USER_FILES:
        supplied.add_row(
            row.role, row.backend, row.description, row.file_format, row.licence,
            "yes" if row.commercial_use else "no", row.official, row.example,
        )  # fmt: skip
    console.print(supplied)


@app.command("fetch")
def fetch(names: Names = None, everything: Annotated[bool, typer.Option("--all")] = False) -> None:
    """Fetches the default assets, the named ones, or all; what is cached already costs nothing."""
    from tqdm import tqdm

    from lhmforge.datasets.assets import fetch_assets

    packages: dict[str, list[Asset]] = {}
    for row in _rows(names, everything=everything):
        packages.setdefault(row.package, []).append(row)
    for rows in tqdm(packages.values(), desc="assets", unit="package"):
        fetch_assets(rows)
    print(f"{sum(map(len, packages.values()))} assets are in place")


@app.command("verify")
def verify(names: Names = None, everything: Annotated[bool, typer.Option("--all")] = False) -> None:
    """Re-reads cached assets and compares size and sha256; exit status 1 when one is missing or altered."""
    from lhmforge.datasets.assets import cached_file, is_intact

    bad = 0
    for row in _rows(names, everything=everything):
        state = "ok" if is_intact(row) else "altered" if cached_file(row).is_file() else "missing"
        bad += state != "ok"
        print(f"{state:8} {row.name:22} {row.sha256[:16]} {cached_file(row)}")
    raise typer.Exit(1 if bad else 0)


def _rows(names: list[str] | None, *, everything: bool) -> list[Asset]:
    from lhmforge.datasets.errors import ConfigError

    if everything:
        return list(ASSETS)
    if not names:
        return [row for row in ASSETS if row.default]
    known = {row.name: row for row in ASSETS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"unknown asset {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return [known[name] for name in names]
