"""The shape of the code: who imports whom, how long files are, and words that do not belong in it."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = sorted((ROOT / "pgconv").rglob("*.py"))
NATIVE = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OTHERS = sorted(p for name in ("benchmarks", "examples") for p in (ROOT / name).rglob("*.py"))

# Position in the one direction of imports: a module imports only from positions to its left.
LAYERS = (
    ("_shapes", "_env", "_kept", "_curves", "_autocast", "_layout", "_observers", "spec"),
    ("groups", "kernel_nets", "sampling"),
    ("backends",),
    ("ops",),
    ("functional",),
    ("neighbors",),
    ("nn",),
    ("models", "data", "compat"),
    ("diagnostics", "config", "deploy", "demo"),
    ("train",),
    ("cli",),
    ("__main__",),
)
# Data has no use for parameters: what it may import ends before the layers.
NEVER = {"data": ("nn", "neighbors")}
POSITION = {name: i for i, layer in enumerate(LAYERS) for name in layer}
# Commands, whose business is to say something.
SPEAKING = [
    ROOT / "pgconv" / name
    for name in ("cli.py", "train/__main__.py", "train/evaluate.py", "train/plot.py", "train/study.py")
]
MAX_LINES, LONG_LINES = 600, 400


def _id(path):
    return str(path.relative_to(ROOT))


def _package(path):
    """First name below pgconv; None for pgconv/__init__.py, which joins everything."""
    parts = path.relative_to(ROOT / "pgconv").with_suffix("").parts
    return None if parts == ("__init__",) else parts[0]


def _imports(tree):
    """First names below pgconv of all imports, those inside functions included, with their line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root, _, rest = alias.name.partition(".")
                if root == "pgconv":
                    yield rest.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write pgconv. in full"
            root, _, rest = node.module.partition(".")
            if root == "pgconv":
                for alias in node.names:
                    yield rest.partition(".")[0] or alias.name, node.lineno


def _tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("path", [p for p in LIBRARY if _package(p)], ids=_id)
def test_imports_point_one_way(path):
    own = _package(path)
    if own == "_lib":
        return
    assert own in POSITION, f"{own} has no layer: give it one in LAYERS"
    for name, line in _imports(_tree(path)):
        if own == "demo" or (own == "config" and name == "__version__"):
            continue  # the demo is a user of the public names; show_config prints the version the package owns
        assert name in POSITION, f"{_id(path)}:{line} imports pgconv.{name}, which has no layer"
        below = (POSITION[name] < POSITION[own] and name not in NEVER.get(own, ())) or name == own
        peers = own in LAYERS[0] and name in LAYERS[0]
        assert below or peers, f"{_id(path)}:{line}: {own} must not import {name}"


def test_every_layer_exists():
    assert set(POSITION) <= {_package(p) for p in LIBRARY}


@pytest.mark.parametrize("path", [p for p in LIBRARY if _package(p) != "demo"], ids=_id)
def test_derivatives_and_environment_variables_have_one_owner(path):
    text = path.read_text(encoding="utf-8")
    if path.name != "_define.py":
        assert "torch.library.Library(" not in text, "operators are registered in ops/_define.py"
    if _package(path) == "backends":
        assert "autograd.Function" not in text, "derivatives are declared above the backends, in ops"
    if path.name != "_env.py":
        assert "os.environ" not in text and "os.getenv" not in text, "environment variables are read in _env.py"


@pytest.mark.parametrize("path", LIBRARY + TESTS + NATIVE + OTHERS, ids=_id)
def test_files_stay_small(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{_id(path)} has {lines} lines: split it by concept"
    if lines > LONG_LINES:
        warnings.warn(f"{_id(path)} has {lines} lines; aim for {LONG_LINES}", stacklevel=1)


@pytest.mark.parametrize("path", [p for p in LIBRARY if p not in SPEAKING and _package(p) != "demo"], ids=_id)
def test_the_library_is_silent_and_has_no_asserts_for_users(path):
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "exit", "breakpoint"), f"line {node.lineno}: {node.func.id}()"
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: raise a ValueError that names the argument"


# Written so that this file does not match itself.
FORBIDDEN = {
    "path of one machine": re.compile(r"/(?:work|home|root|tmp|Users)/" + r"\w"),
    "task without a link": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b(?!.{0,4}https?://)"),
    "banner comment": re.compile(r"^\s*(?:#|//)\s*[-=*#/]" + r"{4,}", re.M),
    "debugger": re.compile(r"\bp" + r"db\.set_trace\b"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_forbidden_words(what):
    pattern = FORBIDDEN[what]
    # Documents may speak of these words; a machine's paths are out of place there as well.
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if what == "path of one machine" else []
    found = [
        f"{_id(path)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group().strip()}"
        for path in (*LIBRARY, *NATIVE, *TESTS, *OTHERS, *documents)
        for text in [path.read_text(encoding="utf-8")]
        for match in pattern.finditer(text)
    ]
    assert not found, found


@pytest.mark.parametrize("path", [p for p in LIBRARY if p.stat().st_size], ids=_id)
def test_every_module_and_public_function_says_what_it_is(path):
    tree = _tree(path)
    assert ast.get_docstring(tree), "no module docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} (line {node.lineno}) has no docstring"
