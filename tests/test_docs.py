"""The documentation: everything public is listed, every link leads somewhere, every page is found from the first one."""

from __future__ import annotations

import ast
import importlib
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINKED = [*sorted(ROOT.glob("*.md")), *PAGES]
PACKAGES = sorted(path for path in (ROOT / "pgconv").rglob("__init__.py") if len(path.relative_to(ROOT).parts) <= 3)

FENCE = re.compile(r"^(`{3,}|~{3,})[^\n]*\n.*?^\1[ \t]*$", re.M | re.S)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.S)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.M)
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.M | re.S)
DIRECTIVE = re.compile(r"^\s*\.\. (?:auto\w+|py:\w+):: (pgconv[\w.]*)", re.M)
# Written so that this file does not match itself.
PRIVATE = re.compile(r"/(?:work|home|root|tmp|Users)/" + r"\w")


def _id(path):
    return str(path.relative_to(ROOT))


def text_of(path):
    return path.read_text(encoding="utf-8")


def prose(text):
    """Without code: what looks like a link there is none."""
    return CODE.sub("", FENCE.sub("", text))


def links(text):
    return [match.group(1) for match in LINK.finditer(prose(text))]


def anchors(text):
    """Those that GitHub, and the site, make of the headings."""
    found, seen = set(), {}
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(slug if count == 0 else f"{slug}-{count}")
    return found


def broken(page):
    """Relative links of a page that lead nowhere."""
    found = []
    for target in links(text_of(page)):
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else Path(os.path.normpath(page.parent / path))
        if not file.exists() or (anchor and (file.suffix != ".md" or anchor not in anchors(text_of(file)))):
            found.append(target)
    return found


def entries(text):
    """Pages that the tables of contents of a page name, without ``.md``."""
    lines = [line.strip() for table in TOCTREE.findall(text) for line in table.splitlines()]
    named = [line for line in lines if line and not line.startswith(":")]
    return [match.group(1) if (match := re.fullmatch(r".*<(.+)>", line)) else line for line in named]


def reached(page, found=None):
    """The page, and all that can be navigated to from it."""
    found = {page} if found is None else found
    for entry in entries(text_of(page)):
        target = Path(os.path.normpath(page.parent / f"{entry.removesuffix('.md')}.md"))
        assert target.exists(), f"{page.name} lists {entry}, which does not exist"
        if target not in found:
            found.add(target)
            reached(target, found)
    return found


def public_names():
    """Every ``pgconv.MODULE.NAME`` of an ``__all__``."""
    found = []
    for path in PACKAGES:
        module = ".".join(path.parent.relative_to(ROOT).parts)
        for node in ast.parse(text_of(path)).body:
            if isinstance(node, ast.Assign) and any(getattr(t, "id", None) == "__all__" for t in node.targets):
                found += [f"{module}.{name}" for name in ast.literal_eval(node.value)]
    return found


def reference():
    return "\n".join(text_of(path) for path in sorted((DOCS / "api").glob("*.md")))


def names_missing_in(text):
    return [name for name in public_names() if not re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", text)]


def test_public_names_are_listed():
    assert not names_missing_in(reference())


def test_a_name_that_is_not_listed_is_found():
    names = public_names()
    assert len(names) > 100 and {"pgconv.explain", "pgconv.nn.GroupConv2d", "pgconv.train.Trainer"} <= set(names)
    without = reference().replace("pgconv.nn.GroupConv2d", "pgconv.nn.GroupConv2dOf")
    assert set(names_missing_in(without)) - set(names_missing_in(reference())) == {"pgconv.nn.GroupConv2d"}


@pytest.mark.parametrize("name", DIRECTIVE.findall(reference()))
def test_what_is_listed_exists_and_is_described(name):
    try:
        assert importlib.import_module(name).__doc__
        return
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
    value = getattr(importlib.import_module(module), attribute)
    assert isinstance(value, (str, tuple)) or callable(value) or hasattr(value, "__args__")
    if isinstance(value, type):
        assert value.__doc__ and not value.__doc__.startswith(f"{value.__name__}("), "no docstring of its own"


def test_environment_variables_are_listed():
    variables = set(re.findall(r"PGCONV_\w+", text_of(ROOT / "pgconv" / "_env.py")))
    assert variables and not variables - set(re.findall(r"PGCONV_\w+", reference()))


@pytest.mark.parametrize("page", LINKED, ids=_id)
def test_links_lead_somewhere(page):
    assert not broken(page)


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "there.md").write_text("# One heading\n\n## `code` and (more), twice\n\n## `code` and (more), twice\n")
    page = tmp_path / "page.md"
    good = (
        "there.md",
        "there.md#one-heading",
        "there.md#code-and-more-twice",
        "there.md#code-and-more-twice-1",
        "#own",
    )
    bad = ("not-there.md", "there.md#another", "#none", "folder/there.md", "page.md#code")
    lines = [f"[{target}]({target})" for target in (*good, *bad, "https://example.org/x")]
    page.write_text(
        "# Own\n\n" + "\n".join(lines) + "\n![an image](none.png)\n`[code](none)`\n```text\n[code](none)\n```\n"
    )
    assert broken(page) == [*bad, "none.png"]


def test_pages_are_found_from_the_first():
    assert not set(PAGES) - reached(DOCS / "index.md")


def test_pages_that_are_not_found_are_missed(tmp_path):
    for name, listed in (
        ("index", "one\ntwo <folder/two>"),
        ("one", ""),
        ("folder/two", "three"),
        ("folder/three", ""),
    ):
        path = tmp_path / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# {name}\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n")
    (tmp_path / "lost.md").write_text("# lost\n")
    assert set(tmp_path.rglob("*.md")) - reached(tmp_path / "index.md") == {tmp_path / "lost.md"}
    (tmp_path / "one.md").unlink()
    with pytest.raises(AssertionError, match="lists one"):
        reached(tmp_path / "index.md")


@pytest.mark.parametrize("page", [*LINKED, DOCS / "conf.py"], ids=_id)
def test_no_path_of_one_machine(page):
    found = PRIVATE.search(text_of(page))
    assert found is None, found


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_pages_begin_with_their_title_and_nothing_else_is_one(page):
    titles = re.findall(r"^# .+$", FENCE.sub("", text_of(page)), re.M)
    assert len(titles) == 1 and text_of(page).startswith(titles[0])
