"""The documentation: links that lead somewhere, and pages that a reader finds. No generator is needed."""

import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
WITH_LINKS = [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "README.md"]
SITE = tomllib.loads((ROOT / "scripts/zensical.toml").read_text())["project"]
REPOSITORY = SITE["repo_url"] + "/blob/main/"

_FENCE = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", page.read_text())


def links(page: Path) -> set[str]:
    return set(_LINK.findall(_CODE.sub("code", prose(page))))


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page: letters, digits, `-` and `_`, in lower case."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(page)):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        again = sum(re.fullmatch(re.escape(anchor) + r"(-\d+)?", other) is not None for other in found)
        found.add(f"{anchor}-{again}" if again else anchor)
    return found


def named(nav: list[dict[str, object]]) -> Iterator[str]:
    """The pages in a part of the site's menu."""
    for entry in nav:
        for value in entry.values():
            if isinstance(value, str):
                yield value
            else:
                assert isinstance(value, list)
                yield from named(value)


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda page: page.name)
def test_each_link_of_a_page_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for link in links(page):
        inside = link.startswith(REPOSITORY)
        path, _, anchor = link.removeprefix(REPOSITORY).partition("#")
        if ":" in path:
            continue
        target = (ROOT / path if inside else page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link} names no heading of {target.name}"


def test_a_reader_finds_each_page_from_the_readme() -> None:
    linked = links(ROOT / "README.md")
    missing = [page.name for page in PAGES if not any(link.startswith(whole(page)) for link in linked)]
    assert not missing, f"README links to none of {missing}"


def whole(page: Path) -> str:
    return f"{REPOSITORY}docs/{page.name}"


def test_the_menu_of_the_site_has_each_page_once() -> None:
    menu = list(named(SITE["nav"]))
    assert sorted(menu) == sorted(
        ["index.md", "ARCHITECTURE.md", "CONTRIBUTING.md", *(page.name for page in PAGES)]
    )


def test_the_site_is_of_the_pages_as_they_are_and_its_links_stay_inside(tmp_path: Path) -> None:
    """Pages that only the generator sees are made of those that people read, and `docs/` stays as it is."""
    before = {path: path.read_bytes() for path in (ROOT / "docs").iterdir()}
    runpy.run_path(str(ROOT / "scripts/docs"))["main"](tmp_path / "site")
    assert {path: path.read_bytes() for path in (ROOT / "docs").iterdir()} == before
    pages = tmp_path / "site" / "pages"
    menu = set(named(SITE["nav"]))
    assert {path.name for path in pages.glob("*.md")} == menu
    for page in pages.glob("*.md"):
        for link in links(page):
            path = link.partition("#")[0]
            if path and ":" not in path:
                assert (pages / path).is_file(), f"{page.name}: {link}"
            outside = link.startswith(f"{REPOSITORY}docs/") or path == f"{REPOSITORY}README.md"
            assert not outside, f"{page.name}: {link} leaves the site"


def test_what_continues_an_item_of_a_list_is_indented_as_the_generator_takes_it() -> None:
    rewritten = runpy.run_path(str(ROOT / "scripts/docs"))["rewritten"]
    text = "- one\n  more\n\n  | a |\n  |---|\n- two\n\nend\n\n    code\n"
    assert rewritten(text) == "- one\n    more\n\n    | a |\n    |---|\n\n- two\n\nend\n\n    code\n"


def test_a_bar_in_the_code_of_a_table_is_shown_without_its_backslash() -> None:
    rewritten = runpy.run_path(str(ROOT / "scripts/docs"))["rewritten"]
    assert rewritten("| `a \\| b` | c \\| d |\n") == "| `a | b` | c \\| d |\n"
