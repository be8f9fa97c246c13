"""The code cites sections of docs/model.md that exist."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
FOLDERS = ("nemotron_diffusion_plugin", "kernels", "patches", "benchmarks", "tests")
PAGE = "docs/model.md"
SECTION = re.compile(r"^#{2,3} (\d(?:\.\d)?) ", re.MULTILINE)
NUMBER = r"\d(?:\.\d)?\b"
CITED = re.compile(rf"{PAGE},\s+({NUMBER}(?:(?:,|\sand)\s+{NUMBER})*)")


def sections() -> set[str]:
    return set(SECTION.findall((CHECKOUT / PAGE).read_text(encoding="utf-8")))


def citations(source: str) -> list[str]:
    """Every number that a text cites; an empty one where the page is cited without a number."""
    numbers = [re.findall(NUMBER, cited) for cited in CITED.findall(source)]
    bare = source.count(PAGE) - len(numbers)
    return [number for several in numbers for number in several] + [""] * bare


def sources() -> list[Path]:
    found = (path for folder in FOLDERS for path in (CHECKOUT / folder).rglob("*.py"))
    return [path for path in found if path.parent != Path(__file__).parent]


def test_cited_sections_exist() -> None:
    known = sections()
    cited = [
        (str(path.relative_to(CHECKOUT)), number)
        for path in sources()
        for number in citations(path.read_text(encoding="utf-8"))
    ]
    assert len(cited) > 50
    assert [(path, number) for path, number in cited if number not in known] == []


def test_the_page_has_the_sections_in_order() -> None:
    text = (CHECKOUT / PAGE).read_text(encoding="utf-8")
    assert SECTION.findall(text) == [
        *("1", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "2"),
        *("3", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "4", "5", "6", "7"),
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("(docs/model.md, 3.2)", ["3.2"]),
        ("(docs/model.md, 3.7).", ["3.7"]),
        ("(docs/model.md, 1.2, 1.3 and\n    2), for 3 rows", ["1.2", "1.3", "2"]),
        ("of docs/model.md, 4, for 9", ["4"]),
        ("see docs/model.md for that", [""]),
    ],
)
def test_citations_are_read(source: str, expected: list[str]) -> None:
    assert citations(source) == expected
