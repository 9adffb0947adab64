"""Every link within the documentation leads somewhere, and every page can be found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)


class Link(NamedTuple):
    page: Path
    target: str
    """As written, such as `../glossary.md#words`."""

    def leads_to(self) -> tuple[Path, str]:
        """The file and the anchor in it."""
        path, _, anchor = self.target.partition("#")
        return ((self.page.parent / path).resolve() if path else self.page), anchor

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)} -> {self.target}"


def prose(text: str) -> str:
    """Markdown without code blocks and code."""
    return re.sub(r"`[^`\n]*`", "code", FENCE.sub("", text))


def targets(text: str) -> list[str]:
    """What a page links to, outside of code."""
    bare = prose(text)
    inline = re.findall(r"\]\(<?([^)\s>]+)>?(?: +\"[^\"]*\")?\)", bare)
    return inline + re.findall(r"^\[[^\]]+\]: *(\S+)", bare, re.MULTILINE)


def links() -> list[Link]:
    found = [Link(page, target) for page in PAGES for target in targets(page.read_text())]
    return [link for link in dict.fromkeys(found) if not re.match(r"[a-z][a-z0-9+.-]*:", link.target)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = found[name] = found.get(name, -1) + 1
        names.add(f"{name}-{count}" if count else name)
    return names


@pytest.mark.parametrize("link", links(), ids=str)
def test_it_leads_somewhere(link: Link) -> None:
    path, anchor = link.leads_to()
    assert path.is_relative_to(ROOT), "it leaves the repository"
    assert path.exists(), f"there is no {path}"
    if anchor:
        assert anchor in anchors(path), f"headings of {path.name}: {', '.join(sorted(anchors(path)))}"


def test_every_page_can_be_reached() -> None:
    """From the README, and from the index of the documentation."""
    leads: dict[Path, set[Path]] = {}
    for link in links():
        leads.setdefault(link.page, set()).add(link.leads_to()[0])
    for start in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        reached, waiting = set[Path](), [start]
        while waiting:
            page = waiting.pop()
            if page not in reached:
                reached.add(page)
                waiting += leads.get(page, set())
        missing = {page for page in PAGES if page not in reached and page != ROOT / "docs" / "index.md"}
        assert {str(page.relative_to(ROOT)) for page in missing} == set()


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    named = {link.leads_to()[0] for link in links() if link.page == index}
    assert {str(page.relative_to(ROOT)) for page in set(PAGES) - named - {index}} == set()


def test_links_and_anchors_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "# A `b`: c\n[x](a.md#y) [`z`](b.md) `[no](c.md)`\n```sh\n# not a heading\n[no](d.md)\n```\n## A b c\n[r]: e.md\n"
    page.write_text(text)
    assert targets(text) == ["a.md#y", "b.md", "e.md"]
    assert anchors(page) == {"a-b-c", "a-b-c-1"}
