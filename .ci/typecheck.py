"""Runs mypy strictly over all four folders, and proves first that an error seeded in each of them is found.

`mypy -p lhmforge` on the checkout sees one file only, since the folders join the package at run time. A generated
folder of links gives mypy the layout of the wheel.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("datasets", "pipelines", "lhm_model", "jobs")
SEED = "def _seeded_type_error() -> int:\n    return 'not a number'\n"


def link_folder(target: Path) -> Path:
    """Links the checkout into the layout of the wheel; returns the folder to run mypy in."""
    package = target / "lhmforge"
    package.mkdir(parents=True, exist_ok=True)
    sources = {"__init__.py": ROOT / "lhmforge" / "__init__.py"} | {folder: ROOT / folder for folder in FOLDERS}
    for name, source in sources.items():
        link = package / name
        if not link.is_symlink():
            link.symlink_to(source)
    return target


def mypy(folder: Path, *targets: str) -> subprocess.CompletedProcess[str]:
    """Runs mypy in `folder` with the project's configuration."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *targets]
    environment = {"MYPYPATH": str(folder), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def seeded_errors_are_found() -> bool:
    """Whether a wrong return type in each folder is reported (in a layout of its own, not in the checkout)."""
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "lhmforge"
        for folder in FOLDERS:
            (package / folder).mkdir(parents=True)
            (package / folder / "seeded.py").write_text(SEED)
        (package / "__init__.py").write_text("")
        found = mypy(Path(scratch), "-p", "lhmforge").stdout
    missing = [folder for folder in FOLDERS if f"lhmforge/{folder}/seeded.py" not in found]
    if missing:
        print(f"mypy overlooks errors in: {missing}\n{found}")
    return not missing


def main() -> int:
    """0 when the seeds are found and the code has no error."""
    if not seeded_errors_are_found():
        return 1
    result = mypy(link_folder(ROOT / "build" / "typecheck"), "-p", "lhmforge")
    print(result.stdout + result.stderr)
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
