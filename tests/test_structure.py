"""The package's folders import only allowed folders, and few modules ask for the backend."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import ROOT, run_python

PACKAGE = ROOT / "aicontent"
SCRIPTS = ROOT / "scripts"

LAYERS = [
    {"errors", "enums"},
    {"database"},
    {"fields"},
    {"records", "connection"},
    {"table"},
    {"schema", "generation", "transfer"},
    {"maintenance", "aio"},
    {"model"},
    {"binding", "testing"},
    {"__init__"},
    {"scripts"},
    {"__main__"},
]
"""The layers from the bottom: a module imports only from lower layers and from its folder."""

LINES = {"model.py": 725, "backend.py": 310}
"""The maximum lines of modules that may exceed the limit of 300."""


def modules() -> dict[str, Path]:
    """Map dotted names such as `database.sqlite` to the package's files."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts)] = path
    for path in sorted(SCRIPTS.glob("*.py")):
        names[f"scripts.{path.stem}"] = path
    return names


MODULES = modules()
LEVELS = {place: level for level, places in enumerate(LAYERS) for place in places}


def place_of(module: str) -> str:
    return module.split(".")[0]


def imports_of(module: str) -> Iterator[str]:
    """Yield the package's modules that a module imports, at any level of its code."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
            targets = [names[1:] for names in targets if names[0] == "aicontent"]
        elif isinstance(node, ast.ImportFrom):
            source = (node.module or "").split(".") if node.module else []
            if node.level:
                source = [*package[: len(package) - node.level + 1], *source]
            elif source[0] == "aicontent":
                source = source[1:]
            else:
                continue
            targets = [[*source, alias.name] for alias in node.names]
        else:
            continue
        for names in targets:
            found = next(
                (".".join(names[:n]) for n in (len(names), len(names) - 1) if is_module(names[:n])),
                "__init__",
            )
            yield found


def is_module(names: list[str]) -> bool:
    return ".".join(names) in MODULES


GRAPH = {name: sorted(set(imports_of(name)) - {name}) for name in MODULES}


def test_the_graph_is_read_right():
    assert "database.supported" in GRAPH["records.record"]
    assert "maintenance.cleanup" in GRAPH["model"]  # imported within a function
    assert "schema.router" in GRAPH["schema.migrate"]  # imported for its types
    assert "transfer.json_lines" in GRAPH["scripts.reading"]
    assert "__init__" in GRAPH["scripts.cli"]


@pytest.mark.parametrize("module", MODULES)
def test_no_import_goes_up(module):
    place = place_of(module)
    for target in GRAPH[module]:
        other = place_of(target)
        is_same_folder = place == other and "." in module
        assert is_same_folder or LEVELS[other] < LEVELS[place], f"{module} imports {target}"


def cycle_in(graph: dict[str, list[str]]) -> list[str] | None:
    """Return the modules of an import cycle, or None."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return None
        for target in graph[name]:
            cycle = visit(target, [*path, name])
            if cycle:
                return cycle
        done.add(name)
        return None

    return next((cycle for cycle in (visit(name, []) for name in graph) if cycle), None)


def test_no_file_is_part_of_a_cycle():
    assert cycle_in({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c"]
    assert cycle_in(GRAPH) is None


def test_no_folder_is_part_of_a_cycle():
    folders: dict[str, set[str]] = {}
    for name, targets in GRAPH.items():
        place = place_of(name)
        folders.setdefault(place, set()).update(
            place_of(target) for target in targets if place_of(target) != place
        )
    assert cycle_in({place: sorted(targets) for place, targets in folders.items()}) is None


KINDS = {"SqliteDatabase", "PostgresqlDatabase", "MySQLDatabase", "PooledSqliteDatabase"}


def backend_questions(text: str) -> list[int]:
    """Return the numbers of the lines that ask which backend a database has."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        is_question = False
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "isinstance",
            "issubclass",
        ):
            names = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
            names |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            is_question = bool(names & KINDS)
        elif isinstance(node, (ast.If, ast.IfExp, ast.BoolOp, ast.UnaryOp)):
            tested = getattr(node, "test", node)
            is_question = isinstance(tested, ast.Attribute) and tested.attr == "for_update"
        elif isinstance(node, (ast.Attribute, ast.Name)):
            is_question = (getattr(node, "attr", "") or getattr(node, "id", "")) == "is_sqlite"
        elif isinstance(node, ast.Compare):
            constants = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
            names = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
            is_question = "name" in names and bool(constants & {"sqlite", "postgresql"})
        if is_question:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "text",
    [
        "isinstance(database, peewee.SqliteDatabase)",
        "x = 1 if database.for_update else 2",
        "catalog.is_sqlite",
        "backend.name == 'sqlite'",
        "isinstance(database, (int, PostgresqlDatabase))",
    ],
)
def test_questions_for_the_database_are_seen(text):
    assert backend_questions(text) == [1]


@pytest.mark.parametrize("module", [name for name in MODULES if place_of(name) != "database"])
def test_only_the_folder_database_asks_which_database_it_is(module):
    assert backend_questions(MODULES[module].read_text("utf-8")) == []


def lines_of_code(path: Path) -> int:
    """Count the lines of code, without docstrings, comments and blank lines."""
    text = path.read_text("utf-8")
    docs = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docs)


def test_modules_and_folders_are_small():
    for path in MODULES.values():
        lines = len(path.read_text("utf-8").splitlines())
        assert lines <= LINES.get(path.name, 300), path
    for folder in {path.parent for path in MODULES.values()}:
        names = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(names) <= 18, folder
    assert sum(lines_of_code(path) for path in PACKAGE.rglob("*.py")) <= 8150
    assert sum(lines_of_code(path) for path in SCRIPTS.glob("*.py")) <= 1282


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_public_names_have_docstrings(module):
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    assert ast.get_docstring(tree), module
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name}"


def test_two_classes_stand_between_peewee_and_the_model():
    from aicontent import AIGeneratedContent

    names = [cls.__name__ for cls in AIGeneratedContent.__mro__]
    assert names[: names.index("Model")] == ["AIGeneratedContent", "ContentTable", "Record"]


def test_an_import_loads_peewee_and_nothing_heavier():
    code = (
        "import sys, peewee\n"
        "before = set(sys.modules)\n"
        "import aicontent\n"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(loaded - set(sys.stdlib_module_names)))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('aicontent.')))\n"
    )
    packages, ours = run_python(code).stdout.splitlines()
    allowed = {"aicontent", "uuid_utils"}
    editable = {name for name in packages.split() if name.startswith("__editable__")}
    assert set(packages.split()) - editable <= allowed
    for lazy in ("schema", "transfer", "maintenance.cleanup", "maintenance.stats", "records.bulk"):
        assert f"aicontent.{lazy}" not in ours.split()
