# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What is shipped: one version, a wheel with every file of the package, a source archive with all that tests need."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import transformers_fsdfm


ROOT = Path(__file__).parents[1]
NAME = "transformers-fsdfm"
# Where the package's files stand in the tree, and where in a wheel.
PACKAGE_FOLDERS = {
    "src/transformers_fsdfm": "transformers_fsdfm",
    "trainer": "transformers_fsdfm/trainer",
    "hub_configs": "transformers_fsdfm/hub_configs",
}
SOURCE_FOLDERS = (*PACKAGE_FOLDERS, "benchmarks", "docs", "examples", "tests")
SOURCE_FILES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "setup.py", "pyproject.toml")
SOURCE_FILES = (*SOURCE_FILES, "constraints.txt", "MANIFEST.in", ".ci/run")


def files_in(folder: Path) -> list[Path]:
    """All files below, without what Python and the tools leave."""
    left_behind = ("__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache")
    return [path for path in folder.rglob("*") if path.is_file() and not set(left_behind) & set(path.parts)]


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
    """The wheel and the source archive of a copy of the tree, so that nothing is left in the tree itself."""
    pytest.importorskip("setuptools", minversion="77", reason="older ones cannot build a wheel on their own")
    tree = tmp_path_factory.mktemp("build") / "tree"
    for folder in SOURCE_FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in SOURCE_FILES:
        (tree / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tree / file)
    command = [sys.executable, "setup.py", "--quiet", "sdist", "bdist_wheel"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (wheel,), (archive,) = (tree / "dist").glob("*.whl"), (tree / "dist").glob("*.tar.gz")
    return wheel, archive


def test_the_version_stands_in_one_place():
    version = transformers_fsdfm.__version__
    assert importlib.metadata.version(NAME) == version
    newest = re.search(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert newest == version
    assert version not in (ROOT / "setup.py").read_text(encoding="utf-8")


def test_type_checkers_see_the_public_names():
    source = (ROOT / "src/transformers_fsdfm/__init__.py").read_text(encoding="utf-8")
    (block,) = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    seen = {alias.asname: statement.module for statement in block.body for alias in statement.names}
    assert seen == transformers_fsdfm._HOME_OF


def test_the_wheel_has_every_file_of_the_package(archives):
    wheel, _ = archives
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        f"{target}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, target in PACKAGE_FOLDERS.items()
        for file in files_in(ROOT / folder)
    }
    assert names == expected
    assert {Path(name).suffix for name in names} >= {".py", ".typed", ".css", ".js", ".yaml", ".json"}


def test_the_wheel_has_the_licence_the_command_and_the_version(archives):
    wheel, _ = archives
    assert wheel.name == f"transformers_fsdfm-{transformers_fsdfm.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as content:
        (licence,) = (name for name in content.namelist() if name.endswith("/LICENSE"))
        assert content.read(licence) == (ROOT / "LICENSE").read_bytes()
        (commands,) = (name for name in content.namelist() if name.endswith("entry_points.txt"))
        assert b"fsdfm = transformers_fsdfm.cli:main" in content.read(commands)


def test_the_base_install_is_small(archives):
    wheel, _ = archives
    with zipfile.ZipFile(wheel) as content:
        (metadata,) = (name for name in content.namelist() if name.endswith("METADATA"))
        required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", content.read(metadata).decode(), re.MULTILINE)
    assert sorted(required) == ["rich", "torch", "transformers", "typer"]


def test_the_source_archive_has_all_that_tests_need(archives):
    _, archive = archives
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    expected = {file.relative_to(ROOT).as_posix() for folder in SOURCE_FOLDERS for file in files_in(ROOT / folder)}
    assert expected | set(SOURCE_FILES) <= names
