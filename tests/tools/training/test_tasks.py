"""The training tasks: right answers, and a held-out split that training never draws."""

import itertools
import json
import random
import re

import pytest

from nemotron_diffusion_plugin.tools.training.tasks import CATEGORIES, Task, draw
from nemotron_diffusion_plugin.tools.training.tokenizer import sample_texts


def draws(category: str, held_out: bool = False, count: int = 200) -> list[Task]:
    rng = random.Random(category)
    return [draw(rng, held_out, category) for _ in range(count)]


def test_arithmetic_answers_are_right() -> None:
    for task in draws("arithmetic"):
        for line in task.answer.splitlines():
            *_, left, right = re.search(r"(: |So )([\d +-]+) = (\d+)", line).groups()
            assert eval(left) == int(right), line


def test_json_answers_hold_the_fields_of_the_question() -> None:
    for task in draws("json"):
        record = json.loads(task.answer)
        assert len(record) >= 3
        assert ", ".join(f"{field} {value}" for field, value in record.items()) in task.question


def test_sorting_answers_are_ordered_permutations() -> None:
    for task in draws("sorting"):
        given = task.question.split(": ")[1].rstrip(".").split(", ")
        answered = task.answer.removeprefix("Sorted: ").rstrip(".").split(", ")
        assert answered == sorted(given)


def test_unit_answers_are_right() -> None:
    for task in draws("units"):
        left, right = task.answer.splitlines()[1].rstrip(".").split(" = ")
        assert sum(int(part.split()[0]) for part in left.split(" + ")) == int(right.split()[0])


def test_code_answers_compile() -> None:
    for task in draws("code"):
        compile(task.answer, "answer", "exec")


def test_lookup_answers_are_in_the_question() -> None:
    for task in draws("lookup"):
        name = task.answer.split()[0]
        number = re.search(r"\d+", task.answer)[0]
        assert f"{name} has {number} " in task.question


def test_counting_answers_reach_the_end() -> None:
    for task in draws("counting"):
        first, last = map(int, re.findall(r"\d+", task.question)[:2])
        numbers = list(map(int, re.findall(r"\d+", task.answer)))
        assert (numbers[0], numbers[-1]) == (first, last)
        assert len({b - a for a, b in itertools.pairwise(numbers)}) == 1


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_splits_are_disjoint(category: str) -> None:
    training, held_out = ({task.key for task in draws(category, split)} for split in (False, True))
    assert not training & held_out
    assert len(held_out) > 20


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_question_has_one_answer(category: str) -> None:
    answers: dict[str, str] = {}
    for task in draws(category, count=1000):
        assert answers.setdefault(task.question, task.answer) == task.answer


def test_the_checker_accepts_the_answer_alone() -> None:
    task = Task("lookup", "k", "q", "Ben has 7 figs.")
    assert task.is_right("Ben has 7 figs.\n")
    assert not task.is_right("Ben has 7 figs")
    assert not task.is_right("Ben has 7 figs. Ben has 7 figs.")


def test_the_tokenizer_never_sees_the_held_out_split() -> None:
    texts = set(sample_texts(500))
    assert texts == set(sample_texts(500))
    held_out = {task.question for category in CATEGORIES for task in draws(category, True)}
    assert not texts & held_out
