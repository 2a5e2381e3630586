"""Packaging: what the wheel holds, the guard against foreign packages, and the pins."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import mutants

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

#: torch itself asks for exact versions of these; they come only with its builds for CUDA.
PINNED_BY_TORCH = re.compile(r"nvidia-(?!ml-py).*|cuda-.*|triton")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return zipfile.ZipFile(path)


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for: to run, to build, and all extras but Tierce's own names for them."""
    project = PROJECT["project"]
    groups = [
        project["dependencies"],
        PROJECT["build-system"]["requires"],
        *project["optional-dependencies"].values(),
    ]
    found = [Requirement(text) for group in groups for text in group]
    return sorted({each for each in found if each.name != "tierce"}, key=str)


def constraints() -> dict[str, Requirement]:
    """The lines of constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def version_of(pin: Requirement) -> str:
    """The one version that a pin allows."""
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return specifier.version


def test_the_wheel_holds_our_three_names_and_nothing_else(wheel):
    """Installing Tierce puts tierce.py, actors/ and placement/ into site-packages, and no tests or jobs."""
    top = {name.split("/")[0] for name in wheel.namelist()}
    version = PROJECT["project"]["version"]
    assert top == {"tierce.py", "actors", "placement", f"tierce-{version}.dist-info"}


def test_the_wheel_holds_every_module(wheel):
    """Every source file of the two packages is in the wheel, and their type markers are."""
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in ("actors", "placement")
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".html", ".css", ".js"} or path.name == "py.typed"
    }
    assert {"actors/py.typed", "placement/py.typed"} <= ours
    assert ours <= set(wheel.namelist())


def test_the_wheel_carries_the_licence_and_the_command(wheel):
    """Whoever gets the wheel gets the text of the licence and the command `tierce`."""
    info = f"tierce-{PROJECT['project']['version']}.dist-info"
    assert "Apache License" in wheel.read(f"{info}/licenses/LICENSE").decode()
    assert "tierce = tierce:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_the_version_stands_in_one_place():
    """pyproject.toml says the version, the environment has it installed, and no module repeats it."""
    version = PROJECT["project"]["version"]
    assert importlib.metadata.version("tierce") == version, "run `make install`: it installs the new version"
    for path in [ROOT / "tierce.py", *(ROOT / "actors").rglob("*.py"), *(ROOT / "placement").rglob("*.py")]:
        strings = [
            node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
        ]
        assert version not in strings, f"{path} repeats the version"


def import_tierce(folder: Path) -> subprocess.CompletedProcess[str]:
    """Import Tierce from a folder whose own packages Python finds first."""
    code = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; import tierce; print(tierce.__file__)"
    )
    return subprocess.run([sys.executable, "-P", "-c", code], check=False, capture_output=True, text=True)


def test_tierce_is_imported_from_a_folder_without_such_packages(tmp_path):
    """Where nothing is in the way, the guard lets Tierce start."""
    result = import_tierce(tmp_path)
    assert result.stdout.strip() == str(ROOT / "tierce.py"), result.stderr


@pytest.mark.parametrize("package", ["actors", "placement"])
def test_the_guard_names_a_foreign_package(tmp_path, package):
    """A package of the user's that hides ours is an ImportError that names both places."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    error = import_tierce(tmp_path).stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: ")
    assert f"`{package}`" in error
    assert str(tmp_path) in error
    assert str(ROOT) in error


def test_every_constraint_is_one_exact_version():
    """constraints.txt leaves nothing to the day of the installation, and names nothing twice."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = constraints()
    assert len(pins) == len([line for line in lines if line and not line.startswith("#")])
    assert [name for name, pin in pins.items() if [found.operator for found in pin.specifier] != ["=="]] == []
    assert version_of(pins["torch"]) == "2.13.0"


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_each_dependency_is_pinned_within_its_range(requirement):
    """What pyproject.toml asks for stands in constraints.txt, in a version that its range allows."""
    pin = constraints()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version_of(pin))


def test_what_dependencies_need_is_pinned_too():
    """Whatever an installation brings along, through any number of steps, is pinned as well."""
    pins = constraints().keys()
    waiting = requirements()
    seen: set[tuple[str, str]] = set()
    missing = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in pins and not PINNED_BY_TORCH.fullmatch(name):
            missing.add(name)
            continue
        for extra in requirement.extras | {""}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += needs(name, extra)
    assert missing == set()
    assert ("virtualenv", "") in seen, "ray[default] needs it: the walk goes through extras"


def needs(name: str, extra: str) -> list[Requirement]:
    """What an installed distribution needs on this machine, for one of its extras."""
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = [Requirement(line) for line in lines]
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": extra})]


def make_environment(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Let `.ci/venv` make an environment with a Python that is a shell script."""
    fake = folder / "python"
    fake.write_text(f"#!/bin/sh\n{python}\n")
    fake.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    command = [bash, str(ROOT / ".ci/venv"), str(folder / "new"), str(fake)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_a_python_that_is_too_old_is_told_so(tmp_path):
    """`make` with an old Python says what it needs and how to name another, and makes no environment."""
    result = make_environment(tmp_path, '[ "$1" = -V ] && echo "Python 3.9.2" && exit 0; exit 1')
    assert result.returncode == 1
    assert "needs Python 3.11 to 3.14" in result.stderr
    assert "is Python 3.9.2." in result.stderr
    assert "make PYTHON=" in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_python_without_ensurepip_is_told_so(tmp_path):
    """A Debian Python that cannot make environments says which package to install."""
    python = f'case "$*" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"'
    result = make_environment(tmp_path, python)
    assert result.returncode == 1
    assert f"apt install python{sys.version_info.major}.{sys.version_info.minor}-venv" in result.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_each_mutant_stands_once_in_its_file(mutant):
    """Where a planted fault goes is found, and only there; the tests that shall catch it exist."""
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert all((ROOT / test).is_file() for test in mutant.tests)
