"""Milliseconds of a forward from a table, and the tables that are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from nemotron_diffusion_plugin.costs import ForwardCosts
from nemotron_diffusion_plugin.options import OptionError

TABLE = {"causal": [[4, 2.0], [8, 3.0], [16, 11.0]], "bidirectional": [[1, 5.0]], "ms_per_kv_token": 0.5}


@pytest.mark.parametrize(
    ("rows", "ms"), [(0, 0.0), (1, 2.0), (4, 2.0), (6, 2.5), (8, 3.0), (12, 7.0), (16, 11.0), (20, 15.0)]
)
def test_lines_between_the_points_and_behind_the_last(rows: int, ms: float) -> None:
    assert ForwardCosts.read(TABLE).forward_ms(rows, 0, bidirectional=False) == pytest.approx(ms)


def test_one_point_is_a_constant() -> None:
    costs = ForwardCosts.read(TABLE)
    assert [costs.forward_ms(rows, 0, bidirectional=True) for rows in (1, 7, 900)] == [5.0] * 3


def test_cached_tokens_add_their_share() -> None:
    costs = ForwardCosts.read(TABLE)
    assert costs.forward_ms(8, 6, bidirectional=False) == pytest.approx(6.0)
    assert costs.forward_ms(0, 6, bidirectional=False) == 0.0


def test_a_table_that_falls_at_its_end_never_goes_below_it() -> None:
    costs = ForwardCosts.read({"causal": [[1, 4.0], [2, 3.0]]})
    assert costs.forward_ms(50, 0, bidirectional=False) == 3.0


def test_drafts_cost_what_verifying_costs_where_nothing_else_is_said() -> None:
    costs = ForwardCosts.read({"causal": [[1, 2.5], [9, 3]]})
    assert costs.bidirectional == costs.causal == ((1, 2.5), (9, 3.0))
    assert costs.ms_per_kv_token == 0.0


def test_a_file_holds_the_same(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(TABLE))
    assert ForwardCosts.read(str(path)) == ForwardCosts.read(TABLE)


def test_what_a_table_leaves_open_is_taken_from_elsewhere() -> None:
    other = ForwardCosts.read({"causal": [[1, 9.0]], "eager_ms": 4.0, "ms_per_mask": 0.5})
    left_open = ForwardCosts.read(TABLE)
    assert (left_open.eager_ms, left_open.ms_per_mask) == (None, None)
    full = left_open.completed_by(other)
    assert (full.eager_ms, full.ms_per_mask) == (4.0, 0.5)
    assert full.causal == left_open.causal
    given = ForwardCosts.read({**TABLE, "eager_ms": 0, "ms_per_mask": 0}).completed_by(other)
    assert (given.eager_ms, given.ms_per_mask) == (0.0, 0.0), "nothing is not the same as not known"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            7,
            "'forward_costs': got 7, expected 'measured', 'arithmetic', a file's path or a JSON object with ",
        ),
        ({}, "'forward_costs.causal': got None, expected a list"),
        ({"causal": []}, r"'forward_costs.causal': got \[\], expected a list"),
        ({"causal": [[1, 2.0]], "draft": []}, "'forward_costs': unknown name 'draft', expected causal"),
        ({"causal": [[1, 2.0, 3.0]]}, r"got \[1, 2.0, 3.0\], expected \[rows, milliseconds\]"),
        ({"causal": [7]}, r"got 7, expected \[rows, milliseconds\]"),
        ({"causal": [[0, 2.0]]}, "got 0 rows, expected an integer >= 1"),
        ({"causal": [[4, 2.0], [4, 3.0]]}, "got 4 rows, expected an integer >= 5: rows increase"),
        ({"causal": [[1.5, 2.0]]}, "got 1.5 rows"),
        ({"causal": [[True, 2.0]]}, "got True rows"),
        ({"causal": [[1, 0]]}, "'forward_costs.causal': got 0 ms, expected a number above 0"),
        ({"causal": [[1, -1.0]]}, "got -1.0, expected milliseconds from 0 to 1000000"),
        ({"causal": [[1, math.nan]]}, "got nan"),
        ({"causal": [[1, "2"]]}, "got '2'"),
        ({"causal": [[1, 2.0]], "bidirectional": None}, "'forward_costs.bidirectional': got None"),
        ({"causal": [[1, 2.0]], "ms_per_kv_token": -1}, "'forward_costs.ms_per_kv_token': got -1"),
        ({"causal": [[1, 2.0]], "eager_ms": None}, "'forward_costs.eager_ms': got None"),
        ({"causal": [[1, 2.0]], "ms_per_mask": "1"}, "'forward_costs.ms_per_mask': got '1'"),
        ({"causal": [[1, 2.0]], "ms_per_kv_token": True}, "'forward_costs.ms_per_kv_token': got True"),
    ],
)
def test_bad_tables(value: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        ForwardCosts.read(value)


@pytest.mark.parametrize("content", ["{", "[]", '"x"', "7"])
def test_bad_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(content)
    with pytest.raises(OptionError, match="'forward_costs': got"):
        ForwardCosts.read(str(path))
    with pytest.raises(OptionError, match=r"nowhere\.json', expected a file"):
        ForwardCosts.read(str(tmp_path / "nowhere.json"))
