"""The floors of the house, its sizes and its words, read from the source itself; DESIGN.md gives the reasons.

Each rule is a function of one file, `(path, source) -> faults`, so that it is tried on planted faults as well
as on the tree.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

NOT_OURS = re.compile(r"\.venv.*|\.git|\.\w+_cache|\.hypothesis|\.ipynb_checkpoints|__pycache__|build|dist")
TEXT = {
    "",
    ".css",
    ".html",
    ".ipynb",
    ".jinja",
    ".js",
    ".json",
    ".md",
    ".py",
    ".sh",
    ".toml",
    ".txt",
    ".yaml",
}

#: Imports point down: a file may import our own modules of its floor or of a lower one.
FLOORS = (
    (0, re.compile(r"placement(\..*)?")),
    (1, re.compile(r"actors|actors\.(lm|rag|web)(\..*)?")),
    (3, re.compile(r"(actors\.cli|actors\.bench|tierce|jobs|notebooks|examples)(\..*)?")),
    (2, re.compile(r"actors\..*")),
)
OURS = {"actors", "placement", "tierce", "jobs", "notebooks", "examples"}

PLACEMENT_LIBRARIES = {"annotated_types", "pydantic", "pydantic_core", "yaml"}
#: Clocks, dice, ids and effects: what would let the same events end in other commands.
EFFECTS = {"asyncio", "random", "secrets", "socket", "sqlite3", "subprocess", "threading", "time", "uuid"}
CLOCK_METHODS = {"now", "utcnow", "today"}

FILE_LINES = 350
TEST_FILE_LINES = 600
FUNCTION_LINES = 60

EMPTY_NAMES = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
EMPTY_CLASS = re.compile(r"\w*(Manager|Helper|Helpers|Util|Utils)")
BROAD = {"Exception", "BaseException"}
#: A folder of somebody's own machine; the design's examples live under /home/user.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home(?!/user\b))/[\w.]")


class Import(NamedTuple):
    """One imported name, dotted as far as it is written: `from a.b import c` is `a.b.c`."""

    line: int
    name: str

    @property
    def library(self) -> str:
        return self.name.partition(".")[0]


def imports(source: str) -> Iterator[Import]:
    """Every import of a file, those inside functions and by import_module("…") included."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (Import(node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (Import(node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield Import(node.lineno, module)


def floor(module: str) -> int:
    """Floor of one of our own modules, the lowest 0."""
    return next(number for number, names in FLOORS if names.fullmatch(module))


def is_product(path: str) -> bool:
    """Whether a file is part of what runs."""
    return PurePosixPath(path).parts[0] in {"actors", "jobs", "placement", "tierce.py"}


def is_test(path: str) -> bool:
    """Whether a file is a test, or belongs to one."""
    return path.startswith("tests/")


def placement_is_pure(path: str, source: str) -> Iterator[str]:
    """placement/ imports only pydantic, PyYAML and the standard library without clock, dice and ids."""
    if not path.startswith("placement/"):
        return
    allowed = ((sys.stdlib_module_names | PLACEMENT_LIBRARIES) - EFFECTS) | {"placement"}
    for found in imports(source):
        if found.library not in allowed:
            yield f"{path}:{found.line}: placement imports {found.name}"
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=owner, attr=method)) if method in CLOCK_METHODS:
                if ast.unparse(owner).split(".")[-1] in {"datetime", "date"}:
                    yield f"{path}:{node.lineno}: placement reads the clock"


def only_shells_import_ray(path: str, source: str) -> Iterator[str]:
    """Of all that is not a test, only the files directly in actors/ import ray."""
    if is_test(path) or PurePosixPath(path).parent == PurePosixPath("actors"):
        return
    for found in imports(source):
        if found.library == "ray":
            yield f"{path}:{found.line}: imports {found.name} outside actors/*.py"


def imports_point_down(path: str, source: str) -> Iterator[str]:
    """A file imports our own modules only from its own floor or a lower one."""
    if not is_product(path):
        return
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for found in imports(source):
        if found.library in OURS and floor(found.name) > floor(module):
            yield f"{path}:{found.line}: {module} imports {found.name}, which is a floor above"


def files_are_short(path: str, source: str) -> Iterator[str]:
    """A file fits in the head: 350 lines, a test file 600."""
    limit = TEST_FILE_LINES if is_test(path) else FILE_LINES
    if (count := len(source.splitlines())) > limit:
        yield f"{path}: {count} lines, more than {limit}"


def functions_are_short(path: str, source: str) -> Iterator[str]:
    """A function has 60 lines at most, its docstring included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {count} lines, more than {FUNCTION_LINES}"


def names_say_something(path: str, source: str) -> Iterator[str]:
    """No file, folder or class has a name that admits any code."""
    for part in PurePosixPath(path).with_suffix("").parts:
        if part in EMPTY_NAMES:
            yield f"{path}: the name {part!r} admits any code"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and EMPTY_CLASS.fullmatch(node.name):
            yield f"{path}:{node.lineno}: the name {node.name!r} admits any code"


def product_has_no_assert(path: str, source: str) -> Iterator[str]:
    """Product code raises errors: `python -O` drops an assert."""
    if not is_product(path):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            yield f"{path}:{node.lineno}: assert in product code"


def nothing_is_swallowed(path: str, source: str) -> Iterator[str]:
    """Whoever catches everything raises again or uses what was caught; nobody suppresses everything."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ExceptHandler() if is_broad(node.type) and not is_dealt_with(node):
                yield f"{path}:{node.lineno}: swallows every exception"
            case ast.Call(func=ast.Attribute(attr="suppress") | ast.Name(id="suppress"), args=args):
                if any(is_broad(argument) for argument in args):
                    yield f"{path}:{node.lineno}: suppresses every exception"


def is_broad(caught: ast.expr | None) -> bool:
    """Whether an except clause catches everything; None is the bare one."""
    match caught:
        case None:
            return True
        case ast.Name(id=name):
            return name in BROAD
        case ast.Tuple(elts=elements):
            return any(is_broad(element) for element in elements)
        case _:
            return False


def is_dealt_with(handler: ast.ExceptHandler) -> bool:
    """Whether a handler raises, or uses the exception that it caught."""
    inside = [node for statement in handler.body for node in ast.walk(statement)]
    raises = any(isinstance(node, ast.Raise) for node in inside)
    return raises or any(isinstance(node, ast.Name) and node.id == handler.name for node in inside)


def no_machine_paths(path: str, source: str) -> Iterator[str]:
    """No file names a folder of somebody's own machine."""
    for number, line in enumerate(source.splitlines(), 1):
        if found := MACHINE_PATH.search(line):
            yield f"{path}:{number}: names a machine's own folder: {line[found.start() :][:40]}"


Rule = Callable[[str, str], Iterator[str]]
CODE_RULES: tuple[Rule, ...] = (
    placement_is_pure,
    only_shells_import_ray,
    imports_point_down,
    functions_are_short,
    names_say_something,
    product_has_no_assert,
    nothing_is_swallowed,
)
TEXT_RULES: tuple[Rule, ...] = (files_are_short, no_machine_paths)
CODE_SUFFIXES = {".py", ".js", ".css", ".html"}


def texts(folder: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Path and source of every text file of ours, whether git knows it yet or not."""
    for path in sorted(folder.iterdir()):
        if NOT_OURS.fullmatch(path.name):  # git's is a file in a worktree
            continue
        if path.is_dir():
            yield from texts(path)
        elif path.is_file() and path.suffix in TEXT:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def faults(rule: Rule) -> list[str]:
    """What a rule finds in the tree; lengths are asked of code, and of that which a browser runs."""
    suffixes = {".py"} if rule in CODE_RULES else CODE_SUFFIXES if rule is files_are_short else TEXT
    return [
        fault
        for path, source in texts()
        if PurePosixPath(path).suffix in suffixes
        for fault in rule(path, source)
    ]


@pytest.mark.parametrize("rule", CODE_RULES + TEXT_RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule):
    """Every file of ours keeps every rule."""
    found = faults(rule)
    assert not found, "\n".join(["", *found])


def test_the_tree_is_read():
    """The rules see the files of every floor, the tests and CI's scripts, and none of an environment's."""
    paths = {path for path, _ in texts()}
    assert {"tierce.py", "placement/errors.py", "actors/errors.py", "actors/cli/__init__.py"} <= paths
    assert {"tests/test_floors.py", ".ci/suites.py", ".ci/run", "Makefile", "pyproject.toml"} <= paths
    assert not [path for path in paths if path.startswith((".venv", ".git/")) or "__pycache__" in path]


LONG = "x = 1\n" * 351
LONG_FUNCTION = "def long():\n" + "    x = 1\n" * 60
SWALLOW = "try:\n    f()\nexcept {}:\n    {}\n"

Case = tuple[Rule, str, str]


def numbered(cases: list[Case]) -> list[str]:
    """Test ids: the rule and a number."""
    return [f"{rule.__name__}-{number}" for number, (rule, _, _) in enumerate(cases)]


PLANTED: list[Case] = [
    (placement_is_pure, "placement/plan.py", "import time"),
    (placement_is_pure, "placement/plan.py", "from random import Random"),
    (placement_is_pure, "placement/plan.py", "import numpy as np"),
    (placement_is_pure, "placement/plan.py", "import torch"),
    (placement_is_pure, "placement/config/load.py", "def f():\n    import uuid"),
    (placement_is_pure, "placement/plan.py", "from actors.store import Store"),
    (placement_is_pure, "placement/plan.py", "import importlib\nimportlib.import_module('asyncio')"),
    (placement_is_pure, "placement/plan.py", "import datetime\nx = datetime.datetime.now()"),
    (only_shells_import_ray, "actors/lm/slots.py", "import ray"),
    (only_shells_import_ray, "actors/rag/shelf.py", "from ray.util import state"),
    (only_shells_import_ray, "actors/web/app.py", "def f():\n    import ray.serve"),
    (only_shells_import_ray, "actors/cli/up.py", "import ray"),
    (only_shells_import_ray, "placement/plan.py", "import ray"),
    (only_shells_import_ray, "tierce.py", "import ray"),
    (only_shells_import_ray, "jobs/up.py", "__import__('ray')"),
    (imports_point_down, "placement/plan.py", "import tierce"),
    (imports_point_down, "actors/lm/slots.py", "from actors import engine"),
    (imports_point_down, "actors/rag/shelf.py", "import actors.shard"),
    (imports_point_down, "actors/launch.py", "from actors.cli.check import check"),
    (imports_point_down, "actors/client.py", "from tierce import connect"),
    (files_are_short, "actors/store.py", LONG),
    (files_are_short, "actors/web/page.html", LONG),
    (files_are_short, "tests/test_x.py", LONG * 2),
    (functions_are_short, "actors/store.py", LONG_FUNCTION),
    (
        functions_are_short,
        "tests/test_x.py",
        "class Test:\n    async " + LONG_FUNCTION.replace("\n", "\n    "),
    ),
    (names_say_something, "actors/utils.py", ""),
    (names_say_something, "tests/helpers/x.py", ""),
    (names_say_something, "actors/store.py", "class StoreManager: ..."),
    (product_has_no_assert, "actors/lm/slots.py", "def f(x):\n    assert x"),
    (nothing_is_swallowed, "actors/store.py", SWALLOW.replace(" {}", "", 1).format("raise_later()")),
    (nothing_is_swallowed, "actors/store.py", SWALLOW.format("Exception", "pass")),
    (nothing_is_swallowed, "actors/store.py", SWALLOW.format("(OSError, Exception)", "log('failed')")),
    (nothing_is_swallowed, "actors/store.py", SWALLOW.format("BaseException as error", "return_none()")),
    (nothing_is_swallowed, "actors/store.py", "with contextlib.suppress(Exception):\n    f()"),
    (no_machine_paths, "README.md", f"cd /{'work'}/main"),
    (no_machine_paths, "tests/test_x.py", f"HOME = '/{'root'}/.ray'"),
    (no_machine_paths, "jobs/up.py", f"open('/{'home'}/anna/models')"),
]


@pytest.mark.parametrize(("rule", "path", "source"), PLANTED, ids=numbered(PLANTED))
def test_a_planted_fault_is_found(rule, path, source):
    """Each rule finds the fault that it is there for, and names the file."""
    found = list(rule(path, source))
    assert len(found) == 1
    assert found[0].startswith(f"{path}:")


ALLOWED: list[Case] = [
    (placement_is_pure, "placement/plan.py", "import re, datetime, yaml\nfrom pydantic import BaseModel"),
    (placement_is_pure, "placement/plan.py", "from placement.state import State"),
    (placement_is_pure, "actors/store.py", "import time, random, ray"),
    (placement_is_pure, "placement/plan.py", "then = datetime.fromtimestamp(now_s, UTC)"),
    (only_shells_import_ray, "actors/store.py", "import ray"),
    (only_shells_import_ray, "tests/actors/test_store.py", "import ray"),
    (only_shells_import_ray, "actors/lm/slots.py", "import array  # no ray"),
    (
        imports_point_down,
        "actors/lm/slots.py",
        "from placement.errors import Cold\nfrom actors.rag import chunk",
    ),
    (imports_point_down, "actors/cli/up.py", "from actors import launch\nimport tierce"),
    (imports_point_down, "tierce.py", "import actors\nfrom actors.client import Lab"),
    (files_are_short, "tests/test_x.py", LONG),
    (functions_are_short, "actors/store.py", LONG_FUNCTION.replace("    x = 1\n", "", 1)),
    (names_say_something, "actors/store.py", "class Commonwealth: ..."),
    (product_has_no_assert, "tests/test_x.py", "assert True"),
    (nothing_is_swallowed, "actors/store.py", SWALLOW.format("OSError", "pass")),
    (nothing_is_swallowed, "actors/store.py", SWALLOW.format("Exception", "raise")),
    (nothing_is_swallowed, "actors/store.py", SWALLOW.format("Exception as error", "report(error)")),
    (
        no_machine_paths,
        "README.md",
        "lora_path: /home/user/lora/coder, /mnt/ssd, https://x.org/work/it, src/root/x",
    ),
]


@pytest.mark.parametrize(("rule", "path", "source"), ALLOWED, ids=numbered(ALLOWED))
def test_what_is_allowed_is_let_through(rule, path, source):
    """No rule cries at what the house allows."""
    assert list(rule(path, source)) == []


def loaded_by(code: str) -> set[str]:
    """Names of the libraries that a new Python has loaded once it has run some code."""
    script = f"import importlib, sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-P", "-c", script], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {module.partition(".")[0] for module in result.stdout.split()}


def import_all(folder: str) -> str:
    """Code that imports every module of a folder."""
    paths = [path for path, _ in texts(ROOT / folder) if path.endswith(".py")]
    modules = [path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in paths]
    return f"for module in {modules!r}: importlib.import_module(module)"


def test_placement_loads_no_library_of_a_higher_floor():
    """Nor do the libraries that placement may import bring in Ray, torch or numpy by a back door."""
    loaded = loaded_by(import_all("placement"))
    assert "pydantic" in loaded
    assert loaded & {"actors", "ray", "torch", "numpy", "transformers", "qdrant_client"} == set()


@pytest.mark.parametrize("folder", ["actors/lm", "actors/rag"])
def test_the_machines_run_without_ray(folder):
    """Nothing that a machine imports, directly or not, loads Ray."""
    loaded = loaded_by(import_all(folder))
    assert "numpy" in loaded
    assert "ray" not in loaded


def test_the_facade_starts_without_ray_and_torch():
    """`import tierce` is quick: what is heavy is loaded by the call that needs it."""
    assert loaded_by("import tierce") & {"ray", "torch", "numpy", "transformers"} == set()
