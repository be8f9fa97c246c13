import pytest
import torch

from benchmarks import kernels
from benchmarks.attention_cases import attention_cases
from benchmarks.cases import Case, relative_error, share_of_wrong

pytest.importorskip("triton")


def test_the_small_form_checks_and_times_every_operator(tmp_path, capsys):
    output = tmp_path / "new" / "kernels.md"
    status = kernels.main(["--small", "--seconds", "0.01", "--seed", "5", "--output", str(output)])
    text = output.read_text(encoding="utf-8")
    assert status == 0
    assert text.endswith(capsys.readouterr().out[: len(text)].rstrip("\n") + "\n")
    assert "seed 5. Copy bandwidth" in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    timed = [row[0] for row in rows if row[2] == "this kernel"]
    assert timed == ["block_attention", "pick", "commit", "accept"]
    for row in rows:
        if row[2] == "this kernel":
            assert float(row[3]) <= 1e-2
            assert float(row[4]) > 0


def test_chosen_operators_only(capsys):
    assert kernels.main(["accept", "--small", "--seconds", "0.01"]) == 0
    text = capsys.readouterr().out
    assert "| accept |" in text
    assert "| pick |" not in text


def case(error, others=None):
    return Case("pick", "tiny", 1000, [lambda: None], lambda: error, 1e-3, others or {})


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_a_wrong_result_fails_the_run(error, monkeypatch, capsys):
    monkeypatch.setitem(kernels.OPERATORS, "pick", lambda small, device: iter([case(error)]))
    assert kernels.main(["pick", "--small", "--seconds", "0.01"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_an_absent_alternative_leaves_its_reason_in_the_table():
    def absent():
        raise ImportError("no module named 'x|y'\nand more")

    lines = kernels.measure(case(0.0, {"other": absent}), seconds=0.0)
    assert lines[1].cells(1e12)[2:5] == ["other", "", "not run: no module named 'x/y'"]


def test_the_share_of_the_copy_bandwidth():
    line = kernels.Line("pick", "tiny", bytes_moved=10**6, implementation="torch", seconds=1e-6)
    assert line.cells(bandwidth=2e12)[4:] == ["1.0", "1.000", "50%"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["picks", "--small"], "got operator 'picks', expected one of block_attention, pick"),
        ([], "there is no GPU; --small runs the script in Triton's interpreter"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(arguments, message, capsys):
    if not arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        kernels.main(arguments)
    assert message in capsys.readouterr().err


def test_errors_are_relative_and_see_nan():
    one = torch.tensor([3.0, 4.0])
    assert relative_error(one * 1.1, one) == pytest.approx(0.1, rel=1e-5)
    assert relative_error(one * torch.nan, one) != relative_error(one, one)
    assert (
        share_of_wrong(
            [torch.tensor([1, 2]), torch.tensor([True])], [torch.tensor([1, 3]), torch.tensor([True])]
        )
        == 1 / 3
    )


def test_the_cases_of_a_gpu_can_be_made_one_by_one(monkeypatch):
    monkeypatch.setattr("benchmarks.attention_cases._tensors", lambda *_: ())
    made = list(attention_cases(small=False, device=torch.device("cpu")))
    assert len(made) == 4 * 3 * 3
    assert len({one.shape for one in made}) == len(made)
    eight = next(one for one in made if one.shape == "1 x 32 queries, causal, context 8192")
    assert eight.bytes_moved == 2 * 8192 * 8 * 128 * 2 + 2 * 32 * 32 * 128 * 2
    assert "this kernel, splits of 2048" in eight.others
