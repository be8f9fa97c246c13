"""Links from page to page lead somewhere, and every page is reached from the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import CHECKOUT, PAGES, name_of, prose, text_of

_LINK = re.compile(r"\]\(([^()\s]+)\)")


def links(page: Path) -> list[str]:
    """The targets of a page's links to files of the checkout."""
    return [target for target in _LINK.findall(prose(text_of(page))) if not target.startswith("http")]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    file = page.parent / name if name else page
    return not file.exists() or (anchor != "" and anchor not in anchors(file))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for target in links(page) if leads_nowhere(page, target)] == []


def test_every_page_is_reached_from_the_readme() -> None:
    readme = CHECKOUT / "README.md"
    reached = {(readme.parent / target.partition("#")[0]).resolve() for target in links(readme)}
    assert [name_of(page) for page in (CHECKOUT / "docs").glob("*.md") if page not in reached] == []


@pytest.mark.parametrize("target", ["docs/modle.md", "docs/model.md#8-nothing", "#no-such-heading"])
def test_a_wrong_link_is_found(target: str) -> None:
    assert leads_nowhere(CHECKOUT / "README.md", target)


@pytest.mark.parametrize("target", ["docs/model.md", "docs/model.md#32-block-diffusion", "#use-it-on-a-gpu"])
def test_a_good_link_is_not(target: str) -> None:
    assert not leads_nowhere(CHECKOUT / "README.md", target)
