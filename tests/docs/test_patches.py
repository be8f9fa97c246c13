"""The page of patches is what the patches say of themselves."""

from pathlib import Path

import pytest

from nemotron_diffusion_patches.inventory import ENGINES, descriptions, table, updated

PAGE = Path(__file__).parents[2] / "docs" / "patches.md"


def test_the_page_shows_the_patches_as_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert updated(page) == page, (
        "write it anew: python -m nemotron_diffusion_patches.inventory docs/patches.md"
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_every_module_describes_its_patches(engine: str) -> None:
    modules = {path.stem for path in PAGE.parents[1].glob(f"patches/*/{engine}/*.py")} - {"__init__"}
    abouts = descriptions(engine)
    assert len({about.name for about in abouts}) == len(abouts) >= len(modules) > 0
    for about in abouts:
        assert all((about.targets, about.reason, about.upstream, about.remove_when)), about.name
        assert f"| `{about.name}` | `" in table(engine)


def test_a_stale_row_is_replaced_and_the_text_around_it_stays() -> None:
    page = PAGE.read_text(encoding="utf-8")
    stale = page.replace("| `retraction` |", "| `retreat` |").replace("| `draft-plan` |", "| `plan` |")
    assert stale != page
    assert updated(stale) == page


def test_a_page_without_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="vLLM function"):
        updated("# Patched engine functions\n")
