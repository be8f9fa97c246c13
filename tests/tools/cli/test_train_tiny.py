import pytest

from nemotron_diffusion_plugin.tools.training import recipe


def test_arguments_reach_the_recipe(run, tmp_path, monkeypatch):
    calls = []

    def train(output, minutes, seed, **options):
        options.pop("on_report")("a line of progress")
        calls.append((output, minutes, seed, options))

    monkeypatch.setattr(recipe, "train_tiny", train)
    folder = tmp_path / "new"
    result = run("train-tiny", folder, "--minutes", "1.5", "--seed", "7", "--eval-per-category", "0")
    assert result.exit_code == 0, result.output
    assert calls == [(folder, 1.5, 7, {"eval_per_category": 0})]
    assert "a line of progress" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--minutes", "0"), "'--minutes': got 0.0, expected 0.001 to 1000000.0"),
        (("--minutes", "nan"), "'--minutes': got nan, expected 0.001 to 1000000.0"),
        (("--eval-per-category", "-1"), "'--eval-per-category': got -1, expected 0 to 10000"),
    ],
)
def test_bad_input_is_one_line(fails, tmp_path, arguments, message):
    assert message in fails("train-tiny", tmp_path / "new", *arguments)


def test_a_folder_in_use_is_left_alone(fails, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert "exists and is not an empty folder" in fails("train-tiny", tmp_path)
