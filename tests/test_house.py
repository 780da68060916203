"""The rules of the house: where things are, which way imports go, how long a file is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import costar
import pytest

ROOT = Path(costar.__file__).resolve().parent
ROOMS = ["corpus", "insertion", "manifests", "train", "eval", "release"]
PACKAGES = ["core", *ROOMS]
STAGE_ENTRIES = {"core/cli.py", "core/cli_release.py", "core/checks.py", "core/api.py"}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported_rooms(path: Path) -> set[str]:
    """The first parts of everything that a module imports from within costar."""
    depth = len(path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth + 1 and node.module:
            found.add(".".join(node.module.split(".")[:2]))
        elif isinstance(node, ast.ImportFrom) and node.level == depth + 1:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            found.add(path.relative_to(ROOT).parts[0])
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_left_only(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    if str(path.relative_to(ROOT)) in STAGE_ENTRIES:
        return
    for imported in imported_rooms(path):
        first = imported.split(".")[0]
        if room == "core":
            assert first == "core", f"{path} imports {imported}"
        elif first in ROOMS and imported != "manifests.tables":
            assert ROOMS.index(first) <= ROOMS.index(room), f"{path} imports {imported}"


def test_rooms_import_each_other_relatively() -> None:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] in ("costar", *PACKAGES) for name in names), f"{path}: {names}"


def test_the_command_line_and_the_api_import_stages_inside_functions_only() -> None:
    for name in STAGE_ENTRIES:
        for node in ast.parse((ROOT / name).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                pytest.fail(f"{name} imports {node.module} at the top")


def test_planning_insertion_and_the_report_need_no_torch() -> None:
    modules = [
        f"costar.{r}"
        for r in ("core.cli", "core.plan", "insertion.build", "insertion.verify", "corpus.build", "manifests.sql")
    ]
    modules += ["costar.train.tree", "costar.train.stale", "costar.train.preflight", "costar.eval.loading"]
    modules += ["costar.eval.report", "costar.eval.suite_attacks"]
    code = f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m)\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_needs_only_torch_numpy_safetensors_and_pyarrow() -> None:
    """On a borrowed accelerator nothing else is there."""
    heavy = [
        "pydantic",
        "typer",
        "duckdb",
        "transformers",
        "datatrove",
        "tokenizers",
        "rich",
        "matplotlib",
        "scipy",
        "jinja2",
    ]
    modules = ["loop", "worker", "launch", "verify", "export", "dataset", "digest", "digest_proof", "callback"]
    code = (
        "import sys, importlib\n"
        f"for name in {heavy!r}: sys.modules[name] = None\n"
        f"for m in {modules!r}: importlib.import_module(f'costar.train.{{m}}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_users_own_train_py_does_not_collide(tmp_path: Path) -> None:
    for name in ("train.py", "eval.py", "corpus.py", "core.py"):
        (tmp_path / name).write_text("raise SystemExit('the user\\'s own file was imported')")
    code = "import costar; from costar.train.loop import train_run; print(costar.open.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "open", done.stderr


def test_the_package_list_is_the_tree() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"costar"} | {
        "costar." + ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert listed == found


def test_the_data_that_ships_is_listed() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["costar"]
    shipped = {path for pattern in patterns for path in ROOT.glob(pattern)}
    data = {
        p
        for package in [*PACKAGES, "suites"]
        for p in (ROOT / package).rglob("*")
        if p.suffix in (".sql", ".j2", ".toml")
    }
    assert data <= shipped
    assert (ROOT / "py.typed") in shipped


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    long = [str(p.relative_to(ROOT)) for p in sources() if len(p.read_text(encoding="utf-8").splitlines()) > 500]
    assert long == []


def test_public_functions_have_types_and_every_module_says_what_it_is() -> None:
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name != "__init__.py":
            assert ast.get_docstring(tree), path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.returns is not None or node.name == "__init__", f"{path}: {node.name}"


def test_nothing_left_behind() -> None:
    pattern = re.compile(r"\b(TODO|FIXME|XXX|HACK|breakpoint\(\)|pdb)\b|except\s*:|print\(")
    for path in sources():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            allowed = path.name in ("console.py", "pool.py") or "print_summary" in line
            assert allowed or not pattern.search(line), f"{path}:{number}: {line}"


def test_every_pin_is_in_range() -> None:
    from packaging.requirements import Requirement

    pins = dict(
        line.strip().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name.lower().replace("_", "-")]), text
