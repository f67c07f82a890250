"""The working tree, and a revision of it in a throw-away folder with native libraries of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("csrc", "CMakeLists.txt")
"""What the native libraries are made of."""
LIBRARIES = Path("pgconv") / "_lib"


class NoTree(Exception):
    """Why a revision cannot be made ready."""


@dataclass(frozen=True)
class Tree:
    """A checkout.

    Attributes:
        root: its folder
        label: what it is called in a table
        libraries: where its native libraries are from
    """

    root: Path
    label: str
    libraries: str


def git(root: Path, *arguments: str) -> str:
    """What git answers in a folder; ``NoTree`` with its complaint if it has one."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        raise NoTree(f"git {' '.join(arguments)}: {error.stderr.strip() or error.stdout.strip()}") from None
    except OSError as error:
        raise NoTree(f"git does not run: {error}") from None
    return done.stdout.strip()


def working(root: Path = ROOT) -> Tree:
    """The working tree as it is, with the libraries it has."""
    state = "with changes" if git(root, "status", "--porcelain", "--untracked-files=no") else "clean"
    label = f"working tree ({git(root, 'rev-parse', '--short', 'HEAD')}, {state})"
    return Tree(root, label, older(root) or "as built")


def older(root: Path) -> str | None:
    """A warning where a source is newer than the library made of it: what is timed may not be what is written."""
    library = root / LIBRARIES / "libpgconv_cpu.so"
    if not library.exists():
        return "there are none: plain PyTorch is timed"
    built = library.stat().st_mtime
    sources = [p for name in SOURCES for p in (root / name, *(root / name).rglob("*")) if p.is_file()]
    newer = [p for p in sources if p.stat().st_mtime > built]
    return f"as built, but {newer[0].relative_to(root)} is newer; run make build" if newer else None


def same_sources(root: Path, commit: str) -> bool:
    """Whether the native sources of the working tree are those of a commit, files git does not know included."""
    changed = git(root, "diff", "--name-only", commit, "--", *SOURCES)
    return not changed and not git(root, "ls-files", "--others", "--exclude-standard", "--", *SOURCES)


def build(tree: Path, cuda: bool = False) -> None:
    """Configure and build the native libraries of a checkout, without its test module; GPU code, which takes longest, if asked."""
    beside = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", "")))
    cmake, ninja = (shutil.which(name, path=beside) for name in ("cmake", "ninja"))
    if cmake is None or ninja is None:
        raise NoTree("the native sources differ, and cmake and ninja to build the others are not installed")
    options = {
        "CMAKE_MAKE_PROGRAM": ninja,
        "Python_EXECUTABLE": sys.executable,
        "PGCONV_LIB_DIR": str(tree / LIBRARIES),
        "PGCONV_BUILD_TESTING": "OFF",
        "PGCONV_CUDA": "ON" if cuda else "OFF",
    }
    folder = str(tree / "build" / "compare")
    words = [f"-D{name}={value}" for name, value in options.items()]
    for command in ([cmake, "-G", "Ninja", *words, "-B", folder, "-S", str(tree)], [cmake, "--build", folder]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NoTree(f"the revision does not build: {(done.stderr or done.stdout).strip()[-2000:]}")


@contextmanager
def revision(
    name: str, root: Path = ROOT, say: Callable[[str], None] = print, make: Callable[[Path], None] = build
) -> Iterator[Tree]:
    """A revision in a folder that is gone after the block.

    Args:
        name: whatever git takes for a commit
        root: the working tree
        say: told what takes long
        make: builds the native libraries of a checkout
    """
    commit = git(root, "rev-parse", "--short", "--verify", f"{name}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="pgconv-compare-") as folder:
        tree = Path(folder) / "tree"
        git(root, "worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            yield Tree(tree, f"{name} ({commit})", _libraries(root, tree, commit, say, make))
        finally:
            git(root, "worktree", "remove", "--force", str(tree))


def _libraries(root: Path, tree: Path, commit: str, say: Callable[[str], None], make: Callable[[Path], None]) -> str:
    """Put native libraries into a checkout; where they are from."""
    if not same_sources(root, commit):
        say(f"native sources differ from those of {commit}: its libraries are built, which takes minutes")
        make(tree)
        return "built from its own sources"
    found = sorted((root / LIBRARIES).glob("libpgconv_*.so"))
    (tree / LIBRARIES).mkdir(parents=True, exist_ok=True)
    for library in found:
        shutil.copy2(library, tree / LIBRARIES / library.name)
    return f"copies of the working tree's, whose sources are the same ({len(found)})"
