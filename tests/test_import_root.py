"""`lhmforge.datasets` is ours, bare `datasets` is not: checkout, editable install, wheel and another working folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROBE = (
    "import lhmforge.datasets.records as records, lhmforge.pipelines.stage, lhmforge.jobs.cli;"
    "import importlib.util as u; spec = u.find_spec('datasets');"
    "print(records.__file__); print(list(spec.submodule_search_locations)[0] if spec else 'absent', spec.origin if spec else None)"
)


def _run(code: str, *, cwd: Path, path: list[Path], isolated: bool = False) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    flags = ["-S"] if isolated else []
    result = subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout.split("\n")


@pytest.fixture
def hugging_face_stand_in(tmp_path: Path) -> Path:
    """A folder with an installed-looking package `datasets`, as Hugging Face's is."""
    package = tmp_path / "site" / "datasets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("WHO = 'hugging face'\n")
    return package.parent


def test_pytest_sees_our_datasets_under_the_root(repository: Path) -> None:
    import lhmforge.datasets.records as records

    assert Path(records.__file__).parent == repository / "datasets"
    assert str(repository) not in sys.path


def test_editable_install_works_from_anywhere(repository: Path, tmp_path: Path) -> None:
    assert _run(PROBE, cwd=tmp_path, path=[])[0] == str(repository / "datasets" / "records.py")


def test_an_installed_datasets_package_wins_over_the_checkout(repository: Path, hugging_face_stand_in: Path) -> None:
    code = "import datasets, lhmforge.datasets.records as r; print(datasets.WHO); print(r.__file__)"
    lines = _run(code, cwd=repository, path=[repository, hugging_face_stand_in])
    assert lines[0] == "hugging face"
    assert lines[1] == str(repository / "datasets" / "records.py")


def test_a_wheel_holds_the_folders_under_the_root_only(repository: Path, tmp_path: Path) -> None:
    tree = tmp_path / "source"
    tree.mkdir()
    for name in ("datasets", "pipelines", "lhm_model", "jobs", "lhmforge", "pyproject.toml", "README.md", "LICENSE"):
        if (repository / name).is_dir():
            _copy_tree(repository / name, tree / name)
        else:
            (tree / name).write_bytes((repository / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(tree)],
        check=True, capture_output=True,
    )  # fmt: skip
    wheel = next(tmp_path.glob("lhmforge-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lhmforge"}
    assert "lhmforge/datasets/records.py" in names
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    lines = _run("import lhmforge.datasets.records as r; print(r.__file__)", cwd=tmp_path, path=[unpacked])
    assert lines[0] == str(unpacked / "lhmforge" / "datasets" / "records.py")


@pytest.mark.ray
def test_a_ray_worker_with_working_dir_imports_the_same(repository: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("lhmforge", "datasets"):
        _copy_tree(repository / name, tree / name)
    script = f"""
import importlib.util, ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env={{"working_dir": {str(tree)!r}}})
@ray.remote
def where():
    import lhmforge.datasets.records as records
    spec = importlib.util.find_spec("datasets")
    return records.__file__, str(spec.origin if spec else None)
print(*ray.get(where.remote()), sep="\\n")
"""
    location, bare_origin, *_ = _run(script, cwd=tmp_path, path=[])
    assert location.endswith("datasets/records.py")
    assert "working_dir_files" in location
    assert bare_origin == "None", "a bare `datasets` with an origin would be a real package"


def _copy_tree(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
