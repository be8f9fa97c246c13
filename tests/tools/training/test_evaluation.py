"""Scores and their table, from counted generations."""

import pytest

from nemotron_diffusion_plugin.reference.result import Generation
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder
from nemotron_diffusion_plugin.tools.training.evaluation import VARIANTS, Score, evaluate, format_table, total
from nemotron_diffusion_plugin.tools.training.tasks import Task
from nemotron_diffusion_plugin.tools.training.tokenizer import write_tokenizer

TASK = Task("lookup", "k", "Who?", "Ben.")


def test_acceptance_length_counts_emitted_tokens_and_not_the_seed_of_the_prefill() -> None:
    score = Score()
    score.add(
        TASK,
        "Ben.",
        Generation([1] * 11, finish_reason="stop", draft_forwards=2, verify_forwards=2, accepted=[7, 31]),
    )
    assert score.acceptance_length == 5.0
    assert score.tokens_per_forward == 11 / 4
    assert (score.right, score.asked, score.accuracy) == (1, 1, 1.0)


def test_missed_questions_are_kept() -> None:
    score = Score()
    score.add(TASK, "Ben?", Generation([1, 2]))
    assert (score.accuracy, score.questions_missed) == (0.0, ["Who?"])
    assert (score.acceptance_length, score.tokens_per_forward) == (0.0, 0.0)


def test_totals_weigh_answers_and_not_categories() -> None:
    many, one = (
        Score(asked=3, right=3, tokens=30, forwards=10),
        Score(asked=1, right=0, tokens=10, forwards=10),
    )
    both = total({"a": many, "b": one})
    assert (both.accuracy, both.tokens_per_forward) == (0.75, 2.0)


def test_the_table_has_a_row_for_every_category_and_one_for_all() -> None:
    scores = {variant: {"a": Score(2, 1, 20, 10, 3), "b": Score(2, 2, 20, 10, 3)} for variant in VARIANTS}
    rows = format_table(scores).splitlines()[2:]
    assert rows == [
        "| a | 50.0 % | 50.0 % | 2.00 | 6.00 | 6.00 |",
        "| b | 100.0 % | 100.0 % | 2.00 | 6.00 | 6.00 |",
        "| all | 75.0 % | 75.0 % | 2.00 | 6.00 | 6.00 |",
    ]


class RecitingDecoder:
    """Answers every prompt with the same tokens and remembers what it was asked."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.prompts = tokens, []

    def generate(self, prompt, max_new_tokens, options):
        self.prompts.append((options.decoding_mode.value, options.draft_lora, tuple(prompt)))
        return Generation(list(self.tokens), "stop", verify_forwards=len(self.tokens))


@pytest.fixture
def encoder(tmp_path) -> ChatEncoder:
    write_tokenizer(tmp_path, 512)
    return ChatEncoder(tmp_path)


def test_every_variant_is_asked_the_same_held_out_questions(encoder: ChatEncoder) -> None:
    decoder = RecitingDecoder([300, 11])
    scores = evaluate(decoder, encoder, per_category=3, seed=0, categories=["json", "code"])
    assert {variant: list(column) for variant, column in scores.items()} == {
        variant: ["json", "code"] for variant in VARIANTS
    }
    asked = {}
    for mode, lora, prompt in decoder.prompts:
        asked.setdefault((mode, lora), []).append(prompt)
    assert len(asked) == len(VARIANTS)
    assert len({tuple(prompts) for prompts in asked.values()}) == 1
    assert all(score.asked == 3 and score.right == 0 for score in scores["ar"].values())
