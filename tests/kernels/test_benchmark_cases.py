"""The cases that `python -m benchmarks.kernels` runs by name or with `all`; tests/benchmarks has its default ones."""

import json

import pytest

from benchmarks import kernels

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero) encountered:RuntimeWarning")


@pytest.mark.parametrize("operator", sorted(set(kernels.OPERATORS) - set(kernels.DEFAULT)))
def test_the_small_form_passes_its_check(operator, device):
    for case in kernels.OPERATORS[operator](True, device):
        assert case.operator == operator
        assert case.error() <= case.tolerance
        assert case.others


def test_the_results_are_written_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "OPERATORS", {"low_rank": kernels.OPERATORS["low_rank"]})
    output = tmp_path / "new" / "kernels.json"
    arguments = ["all", "--small", "--seconds", "0.001", "--seed", "5", "--json", str(output)]
    assert kernels.main(arguments) == 0
    results = json.loads(output.read_text(encoding="utf-8"))
    assert "seed 5" in results["machine"]
    assert results["copy_bytes_per_second"] > 0
    assert {line["implementation"] for line in results["lines"]} >= {"this kernel", "o_proj alone", "torch"}
    assert all(line["seconds"] > 0 and line["is_good"] for line in results["lines"])
    assert "| low_rank |" in capsys.readouterr().out
