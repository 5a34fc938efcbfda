"""The package as a whole: what importing it does, what it gives, and what is in the wheel."""

from __future__ import annotations

import ast
import importlib
import json
import logging
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import bulkllm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(bulkllm.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
HEAVY = {
    "aiohttp", "httpx", "jinja2", "litellm", "numpy", "openai", "pandas", "platformdirs", "polars", "pydantic", "redis",
    "requests", "rich", "typer",
}  # fmt: skip
# The only public names that are modules too; any other would be one thing or the other, depending on what was imported.
PUBLIC_MODULES = {"errors", "models"}
# Loading LiteLLM is the job of the one; the others reach into its insides, once it is loaded.
LOADS_LITELLM = {"_litellm.py", "caching/litellm_patch.py", "calls/unlogged.py"}


def test_all_is_sorted_and_whole() -> None:
    assert bulkllm.__all__ == sorted(set(bulkllm.__all__))
    assert set(bulkllm.__all__) <= set(dir(bulkllm))


@pytest.mark.parametrize("name", bulkllm.__all__)
def test_public_name_resolves(name: str) -> None:
    value = getattr(bulkllm, name)
    assert getattr(value, "__name__", "").rpartition(".")[2] == name
    assert value.__doc__


def test_type_checkers_see_what_is_public() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    assert sorted(alias.asname or alias.name for node in imports for alias in node.names) == bulkllm.__all__


@pytest.mark.parametrize("module", ["bulkllm", "bulkllm.models", "bulkllm.testing", "bulkllm.integrations"])
def test_docs_list_what_is_public(module: str) -> None:
    section = re.search(rf"^## `{module}`\n(.*?)(?=^## |\Z)", _documentation()["docs/api.md"], re.MULTILINE | re.DOTALL)
    assert section is not None
    entries = re.findall(r"^- `(\w+)`: \S", section[1], re.MULTILINE)
    assert sorted(entries) == sorted(importlib.import_module(module).__all__)


def test_documentation_uses_public_names_only() -> None:
    modules = "|".join(sorted(PUBLIC_MODULES | {"testing", "integrations"}))
    for text in _documentation().values():
        for module, name in re.findall(rf"\bbulkllm(\.(?:{modules}))?\.([A-Za-z]\w*)\b", text):
            where = importlib.import_module(f"bulkllm{module}")
            assert name in {*where.__all__, *(modules.split("|") if not module else ())}


def test_no_public_name_is_a_submodule_too() -> None:
    submodules = {module.name for module in pkgutil.iter_modules(bulkllm.__path__)}
    assert submodules & set(bulkllm.__all__) == PUBLIC_MODULES


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'bulkllm' has no attribute 'complete'"):
        bulkllm.complete  # noqa: B018 - looking it up is the test


def test_version() -> None:
    assert bulkllm.__version__ == version("bulkllm")


# -- a library's manners -------------------------------------------------------------------------------------

WATCHED_IMPORT = """
import importlib, json, logging, os, sys, threading, time, typing

seen, before = [], set(sys.modules)

def watch(event, details):
    if event == "open":
        path, _, flags = details
        seen.append(["written" if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else "read", str(path)])
    elif event.startswith(("socket.", "subprocess.", "os.", "_thread.", "shutil.", "tempfile.", "urllib.", "ctypes.")):
        if event not in {"os.listdir", "os.scandir"}:  # how modules are found
            seen.append([event, str(details)])

sys.addaudithook(watch)
start = time.process_time()
import bulkllm
told = {
    "seconds": time.process_time() - start,
    "seen": list(seen),
    "modules": sorted(set(sys.modules) - before),
    "threads": threading.active_count(),
    "root handlers": len(logging.getLogger().handlers),
    "file": bulkllm.__file__,
}
print(json.dumps(told))
"""


def test_import_reads_its_own_modules_and_does_nothing_else() -> None:
    told = _told_by(WATCHED_IMPORT)
    own, library = os.path.dirname(told["file"]), os.path.dirname(os.__file__)  # noqa: PTH120 - compared as text
    for what, path in told["seen"]:
        assert (what, Path(path).suffix in {".py", ".pyc", ".so"}) == ("read", True), path
        assert path.startswith((own, library)), path
    assert "bulkllm" in told["modules"]
    assert {name.partition(".")[0] for name in told["modules"]} <= {"bulkllm", *sys.stdlib_module_names}
    assert told["threads"] == 1
    assert told["root handlers"] == 0


def test_import_takes_less_than_a_tenth_of_a_second() -> None:
    assert min(_told_by(WATCHED_IMPORT)["seconds"] for _ in range(3)) < 0.1


def test_public_names_are_light() -> None:
    names = """
import json, sys, bulkllm
for name in bulkllm.__all__:
    getattr(bulkllm, name)
print(json.dumps({"modules": list(sys.modules)}))
"""
    assert HEAVY & set(_told_by(names)["modules"]) <= {"pydantic"}  # LLMConfig and ModelInfo are models of its


def test_logging_is_left_to_the_program() -> None:
    assert [type(handler) for handler in logging.getLogger("bulkllm").handlers] == [logging.NullHandler]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_module_keeps_the_house_rules(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert len((ast.get_docstring(tree) or "").split()) > 3, "a module opens with what may live in it"
    calls = {ast.unparse(call) for call in ast.walk(tree) if isinstance(call, ast.Call)}
    if "cli" not in path.relative_to(PACKAGE).parts:
        assert not [call for call in calls if call.startswith("print(")], "a library does not print"
    if path.relative_to(PACKAGE).as_posix() not in LOADS_LITELLM:
        loads = re.compile(r"(importlib\.)?(import_module|__import__)\('litellm\b")
        assert not [call for call in calls if loads.match(call)], "bulkllm._litellm loads LiteLLM"


# -- what is shipped -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / "bulkllm").is_dir(), reason="the tests are run without the package's sources")
def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        head = archive.read(metadata).decode().partition("\n\n")[0].splitlines()
    info = metadata.removesuffix("METADATA")
    package = {name for name in names if not name.startswith(info)}
    assert package == {path.relative_to(ROOT).as_posix() for path in _sources()}
    assert "bulkllm/py.typed" in package
    assert {f"{info}licenses/LICENSE", f"{info}entry_points.txt"} <= names
    assert {"License-Expression: MIT", "Requires-Python: >=3.11", f"Version: {bulkllm.__version__}"} <= set(head)


@pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="the workflows are in the repository only")
def test_supported_pythons_are_the_tested_ones() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    supported = re.findall(
        r"^Programming Language :: Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE
    )
    assert f"python: {json.dumps(supported)}\n" in (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    assert project["requires-python"] == f">={supported[0]}"


def _documentation() -> dict[str, str]:
    paths = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in paths}


def _sources() -> Iterator[Path]:
    for path in (ROOT / "bulkllm").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def _told_by(program: str) -> Any:
    """What a fresh interpreter prints as JSON."""
    command = [sys.executable, "-B", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)
