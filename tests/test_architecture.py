"""The shape of the code base: import directions, third-party fences, size caps, no cycles, no stray packages."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("datasets", "pipelines", "lhm_model", "jobs")
ALLOWED = {
    "datasets": {"datasets"},
    "pipelines": {"pipelines", "datasets"},
    "lhm_model": {"lhm_model", "datasets"},
    "jobs": set(FOLDERS),
}
# third-party package -> where it may be imported (prefixes of paths in the checkout)
FENCES = {
    "ray": ("pipelines/executor", "pipelines/ray_", "jobs/"),
    "mlflow": ("jobs/tracking.py",),
    "webdataset": ("datasets/loader.py", "datasets/shards.py"),
    "gsplat": ("lhm_model/render_gsplat.py",),
    "smplx": (),
    "mediapipe": ("pipelines/backends/",),
    "onnxruntime": ("pipelines/backends/",),
    "trackers": ("pipelines/backends/", "pipelines/qa/tracking_scores.py"),
    "supervision": ("pipelines/backends/",),
    "scenedetect": ("pipelines/backends/",),
    "mmpose": ("pipelines/backends/",),
    "sam2": ("pipelines/backends/",),
    "transformers": ("pipelines/backends/",),
    "decord": ("pipelines/video", "pipelines/decod"),
    "viser": ("jobs/",),
    "faiss": ("pipelines/identity_clusters.py",),
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_KERNEL_LINES = (
    90  # a numba kernel keeps its accumulators in registers; cutting it up would pass them through memory
)


def _modules() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Absolute names of the modules a file imports; `from a import b` counts as `a.b` and as `a`."""
    nodes = _tree(path).body if top_level_only else list(ast.walk(_tree(path)))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def test_folders_import_only_what_the_architecture_allows() -> None:
    wrong = []
    for path in _modules():
        folder = _relative(path).split("/")[0]
        for name in _imports(path):
            match = re.match(r"lhmforge\.(\w+)", name)
            if match and match.group(1) in FOLDERS and match.group(1) not in ALLOWED[folder]:
                wrong.append(f"{_relative(path)} imports {name}")
            if name.split(".")[0] in FOLDERS:
                wrong.append(f"{_relative(path)} imports {name} without the root lhmforge")
    assert not wrong, "\n".join(wrong)


def test_third_party_packages_stay_behind_their_fences() -> None:
    wrong = [
        f"{_relative(path)} imports {name}"
        for path in _modules()
        for name in _imports(path)
        if name.split(".")[0] in FENCES and not _relative(path).startswith(FENCES[name.split(".")[0]] or ("-",))
    ]
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_stay_small() -> None:
    wrong = []
    for path in _modules():
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MAX_FILE_LINES:
            wrong.append(f"{_relative(path)}: {lines} lines")
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                compiled = any(isinstance(d, ast.Name) and d.id == "_compiled" for d in node.decorator_list)
                if length > (MAX_KERNEL_LINES if compiled else MAX_FUNCTION_LINES):
                    wrong.append(f"{_relative(path)}:{node.lineno} {node.name}: {length} lines")
    assert not wrong, "\n".join(wrong)


def test_modules_have_no_import_cycle_at_load_time() -> None:
    names = {"lhmforge." + _relative(path).removesuffix(".py").replace("/", "."): path for path in _modules()}
    edges = {
        name: {other for other in _imports(path, top_level_only=True) if other in names and other != name}
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in edges[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in names:
        visit(name, ())


def test_every_package_folder_is_listed_for_the_wheel() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    folders = {path.parent for path in _modules()}
    missing = [_relative(f) for f in folders if f'"lhmforge.{_relative(f).replace("/", ".")}"' not in text]
    assert not missing, f"not in pyproject's packages: {missing}"


def test_top_level_folders_are_not_packages() -> None:
    assert not [folder for folder in (*FOLDERS, "tests") if (REPOSITORY / folder / "__init__.py").exists()]


@pytest.mark.parametrize("forbidden", ["utils", "helpers", "common", "misc"])
def test_no_module_is_named_after_nothing(forbidden: str) -> None:
    assert not [path for path in _modules() if path.stem == forbidden]


def test_no_broad_except_outside_the_unit_boundary() -> None:
    allowed = ("pipelines/unit.py", "pipelines/executor", "pipelines/isolat", "jobs/cli.py")
    wrong = []
    for path in _modules():
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.ExceptHandler) or _relative(path).startswith(allowed):
                continue
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
            )
            reraises = any(isinstance(child, ast.Raise) for child in ast.walk(node))
            if broad and not reraises:
                wrong.append(f"{_relative(path)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)
