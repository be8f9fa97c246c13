import shutil

import pytest
from rich.console import Console

from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.reference.result import Generation, Step
from nemotron_diffusion_plugin.tools.cli.generate import Mode, summarize
from nemotron_diffusion_plugin.tools.cli.live import draw, live_view

QUICK = ("--max-new-tokens", "12", "--ignore-eos")


class Letters:
    """A tokenizer that knows the letters."""

    def decode(self, tokens, skip_special_tokens=False):
        return "".join(chr(token) for token in tokens)


@pytest.mark.parametrize("mode", list(Mode))
def test_every_mode_answers(run, random_checkpoint, mode):
    block = ("--block-size", "4") if mode is Mode.QUADRATIC else ()
    result = run("generate", "2 + 2?", "--model", random_checkpoint, "--mode", mode.value, *QUICK, *block)
    assert result.exit_code == 0, result.output
    assert f"{mode.value} · 12 tokens (length)" in result.stderr
    assert "tokens per forward" in result.stderr


def test_ar_and_both_kinds_of_self_speculation_say_the_same(run, random_checkpoint):
    answers = {
        run("generate", "hello", "-m", random_checkpoint, "--mode", mode, "--block-size", "4", *QUICK).stdout
        for mode in ("ar", "self_speculation", "quadratic")
    }
    assert len(answers) == 1
    assert answers != {"\n"}


def test_the_prompt_may_come_from_standard_input(run, random_checkpoint):
    arguments = ("-m", random_checkpoint, *QUICK)
    assert (
        run("generate", "-", *arguments, input="hello").stdout == run("generate", "hello", *arguments).stdout
    )


def test_raw_and_thinking_change_the_prompt(run, random_checkpoint):
    arguments = ("generate", "hello", "-m", random_checkpoint, *QUICK)
    answers = {run(*arguments, *extra).stdout for extra in ((), ("--raw",), ("--thinking",))}
    assert len(answers) == 3


def test_options_reach_the_decoder(run, random_checkpoint):
    arguments = ("generate", "hello", "-m", random_checkpoint, "--mode", "diffusion", *QUICK)
    assert "1.0 denoise steps per block" in run(*arguments, "--denoising-steps", "1").stderr
    assert (
        "7.0 denoise steps per block" in run(*arguments, "--block-size", "8", "--commit-rule", "fixed").stderr
    )
    quick = run(*arguments, "--commit-rule", "fixed", "--tokens-per-step", "31").stderr
    assert "1.0 denoise steps per block" in quick


def test_the_live_view_shows_every_forward(run, random_checkpoint):
    result = run("generate", "hello", "-m", random_checkpoint, "--live", "--mode", "diffusion", *QUICK)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threshold", "1.5"), r"--threshold: got 1.5, expected a number in (0, 1]"),
        (("--block-size", "33"), "--block-size: got 33, expected an integer in 1 to 32"),
        (("--denoising-steps", "0"), "'--denoising-steps': got 0, expected 1 to 2147483647"),
        (("--tokens-per-step", "2"), "--tokens-per-step: got 2 with commit_rule 'threshold'"),
        (("--max-new-tokens", "0"), "'--max-new-tokens' / '-n': got 0, expected 1 to 2147483647"),
        (("--temperature", "-1"), "'--temperature': got -1.0, expected 0 to 100"),
        (("--max-model-len", "2"), "tokens, expected 1 to 1, as --max-model-len is 2"),
        (("--max-model-len", "1025"), "--max-model-len: got 1025, expected 2 to 1024, the model's limit"),
        (("--delay", "-1"), "'--delay': got -1.0, expected 0 to 60"),
        (("--delay", "nan"), "'--delay': got nan, expected 0 to 60"),
        (("--seed", str(2**63)), f"'--seed': got {2**63}, expected {-(2**63)} to {2**63 - 1}"),
    ],
)
def test_bad_options_are_one_line(fails, random_checkpoint, arguments, message):
    assert message in fails("generate", "hello", "-m", random_checkpoint, *arguments)


def test_bad_folders_are_one_line(fails, tmp_path, random_checkpoint):
    for folder in (tmp_path / "none", tmp_path, BUNDLED_CHECKPOINT / "config.json"):
        expected = f"--model: got '{folder}', expected a checkpoint folder, with its config.json"
        assert expected in fails("generate", "x", "-m", folder)
    assert "PROMPT: got 0 tokens, expected 1 to 1023" in fails(
        "generate", "", "--raw", "-m", random_checkpoint
    )


@pytest.mark.parametrize("prompt", ["-", "caf\udce9"])
def test_a_prompt_that_is_no_text_is_one_line(run, random_checkpoint, prompt):
    result = run("generate", prompt, "-m", random_checkpoint, *QUICK, input=b"caf\xe9")
    assert result.exit_code == 2
    what = "standard input: byte 3 is no UTF-8" if prompt == "-" else "PROMPT: got bytes that are not UTF-8"
    assert what in result.stderr


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "tokenizer.json: not readable: "),
        ("tokenizer.json", None, "no tokenizer.json, expected the checkpoint's tokenizer"),
        ("chat_template.jinja", "{% if %}", "the chat template fails: "),
        ("chat_template.jinja", "{{ raise_exception('no system message') }}", "fails: no system message"),
        ("chat_template.jinja", None, "no chat_template.jinja, which chat messages need"),
    ],
)
def test_a_damaged_tokenizer_or_template_is_one_line(
    fails, tmp_path, random_checkpoint, file, content, message
):
    folder = shutil.copytree(random_checkpoint, tmp_path / "damaged")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    assert message in fails("generate", "hello", "-m", folder)
    if file == "tokenizer.json":
        assert "tokenizer.json" in fails("train-eagle3", tmp_path / "new", "--target", folder)


def test_wrong_mode_lists_the_modes(run):
    result = run("generate", "x", "--mode", "fast")
    assert result.exit_code == 2
    assert "self_speculation" in result.output + result.stderr


def test_summary_counts():
    result = Generation([1] * 10, finish_reason="stop", draft_forwards=2, verify_forwards=2, accepted=[4, 3])
    line = summarize(Mode.SELF_SPECULATION, result, 0.5)
    assert line == (
        "self_speculation · 10 tokens (stop) · 4 forwards: 2 draft, 0 denoise, 2 verify · "
        "2.50 tokens per forward · acceptance length 4.50 · 20 tok/s"
    )


def picture(step, forwards):
    console = Console(record=True, width=60, force_terminal=True)
    console.print(draw(step, Letters(), forwards))
    return console.export_text()


def test_the_picture_holds_text_block_masks_and_counts():
    step = Step(
        "denoise", [ord("a"), ord("b"), 100, ord("d")], [False, False, True, False], [ord("x"), ord("y")]
    )
    shown = picture(step, {"prefill": 1, "denoise": 3})
    assert "xy" in shown
    assert "ab▒ d" in shown
    assert "block after denoise" in shown
    assert "forwards: 3 denoise" in shown


def test_a_token_with_the_mask_id_that_is_not_masked_is_shown_as_text():
    assert "▒" not in picture(Step("verify", [100], [False], []), {})


def test_markup_in_the_text_is_not_interpreted():
    shown = picture(Step("verify", [ord(c) for c in "[/x]"], [False] * 4, [ord(c) for c in "[bold]"]), {})
    assert "[/x]" in shown
    assert "[bold]" in shown


def test_the_view_counts_forwards():
    console = Console(record=True, width=60, force_terminal=True)
    with live_view(Letters(), console=console) as show:
        for kind in ("prefill", "draft", "verify", "draft"):
            show(Step(kind, [97], [False], [97]))
    assert "2 draft · 1 verify" in console.export_text()
