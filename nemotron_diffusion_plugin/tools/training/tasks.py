"""Generated question-and-answer tasks by category, each with one exact answer, and their held-out split."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nemotron_diffusion_plugin.tools.training import vocabulary as v

HELD_OUT_SHARE = 16


@dataclass(frozen=True, slots=True)
class Task:
    """One question with its only right answer; ``key`` names the content without the question's phrasing."""

    category: str
    key: str
    question: str
    answer: str

    @property
    def held_out(self) -> bool:
        """Whether the task is in the held-out split: decided by ``key`` alone, so phrasings never leak."""
        digest = hashlib.sha256(f"{self.category}|{self.key}".encode()).digest()
        return digest[0] % HELD_OUT_SHARE == 0

    def is_right(self, text: str) -> bool:
        """Whether ``text`` is the expected answer, word for word; outer white space does not count."""
        return text.strip() == self.answer.strip()


def _task(category: str, key: object, question: str, answer: str) -> Task:
    return Task(category, str(key), question, answer)


def _addition_steps(a: int, b: int) -> str:
    lines, carry = [], 0
    places = ["Ones", "Tens", "Hundreds"][: max(len(str(a)), len(str(b)))]
    for index, place in enumerate(places):
        x, y = a // 10**index % 10, b // 10**index % 10
        total = x + y + carry
        lines.append(f"{place}: {x} + {y} + {carry} = {total}, write {total % 10}, carry {total // 10}.")
        carry = total // 10
    return "\n".join([*lines, f"So {a} + {b} = {a + b}."])


def _subtraction_steps(a: int, b: int) -> str:
    lines, borrow = [], 0
    for index, place in enumerate(["Ones", "Tens"]):
        x, y = a // 10**index % 10, b // 10**index % 10
        lent = int(x - y - borrow < 0)
        lines.append(
            f"{place}: {x + 10 * lent} - {y} - {borrow} = {x + 10 * lent - y - borrow}, borrow {lent}."
        )
        borrow = lent
    return "\n".join([*lines, f"So {a} - {b} = {a - b}."])


def arithmetic(rng: random.Random) -> Task:
    """Addition or subtraction with its written steps."""
    if rng.random() < 0.35:
        b, a = sorted(rng.sample(range(10, 100), 2))
        question = rng.choice([f"Subtract {b} from {a} step by step.", f"What is {a} - {b}? Show the steps."])
        return _task("arithmetic", (a, "-", b), question, _subtraction_steps(a, b))
    low, high = rng.choice([(10, 99), (100, 999)])
    a, b = rng.randint(low, high), rng.randint(low, high)
    question = rng.choice([f"Add {a} and {b} step by step.", f"What is {a} + {b}? Show the steps."])
    return _task("arithmetic", (a, "+", b), question, _addition_steps(a, b))


def json_record(rng: random.Random) -> Task:
    """A JSON object from fields given in the question."""
    values: dict[str, object] = {
        "name": rng.choice(v.NAMES),
        "age": rng.randint(10, 99),
        "city": rng.choice(v.CITIES),
        "job": rng.choice(v.JOBS),
        "pet": rng.choice(v.ANIMALS),
        "color": rng.choice(v.COLORS),
    }
    fields = rng.sample(sorted(values), rng.randint(3, 5))
    listed = ", ".join(f"{field} {values[field]}" for field in fields)
    body = ", ".join(
        f'"{field}": {values[field]}' if field == "age" else f'"{field}": "{values[field]}"'
        for field in fields
    )
    question = rng.choice([f"Write a JSON record with {listed}.", f"Turn this into JSON: {listed}."])
    return _task("json", listed, question, "{" + body + "}")


def sorting(rng: random.Random) -> Task:
    """Numbers in ascending order or words in alphabetical order."""
    if rng.random() < 0.5:
        numbers = rng.sample(range(10, 100), rng.randint(3, 5))
        listed = ", ".join(map(str, numbers))
        question = rng.choice([f"Sort these numbers: {listed}.", f"Put in ascending order: {listed}."])
        return _task("sorting", listed, question, f"Sorted: {', '.join(map(str, sorted(numbers)))}.")
    words = rng.sample(v.WORDS, rng.randint(3, 6))
    listed = ", ".join(words)
    question = rng.choice([f"Sort these words: {listed}.", f"Put in alphabetical order: {listed}."])
    return _task("sorting", listed, question, f"Sorted: {', '.join(sorted(words))}.")


UNITS = (
    ("km", "m", 1000, 99),
    ("kg", "g", 1000, 99),
    ("l", "ml", 1000, 99),
    ("m", "cm", 100, 99),
    ("h", "min", 60, 9),
    ("min", "s", 60, 9),
    ("weeks", "days", 7, 9),
)


def unit_conversion(rng: random.Random) -> Task:
    """A quantity in two units turned into the smaller unit."""
    big, small, factor, most = rng.choice(UNITS)
    whole, part = rng.randint(2, most), rng.randint(1, factor - 1)
    question = rng.choice(
        [
            f"Convert {whole} {big} {part} {small} to {small}.",
            f"How many {small} are {whole} {big} {part} {small}?",
        ]
    )
    answer = (
        f"1 {big} = {factor} {small}, so {whole} {big} = {whole * factor} {small}.\n"
        f"{whole * factor} {small} + {part} {small} = {whole * factor + part} {small}."
    )
    return _task("units", (whole, big, part), question, answer)


def code(rng: random.Random) -> Task:
    """A short piece of Python."""
    kind = rng.randrange(3)
    if kind == 0:
        verb, sign, joint = rng.choice(
            [
                ("adds", "+", "to"),
                ("subtracts", "-", "from"),
                ("multiplies", "*", "by"),
                ("divides", "/", "by"),
            ]
        )
        name, parameter, number = rng.choice(v.FUNCTION_NAMES), rng.choice(v.PARAMETERS), rng.randint(2, 99)
        does = (
            f"{verb} {number} {joint} {parameter}" if sign in "+-" else f"{verb} {parameter} {joint} {number}"
        )
        question = f"Write a Python function {name} that {does}."
        return _task(
            "code", does + name, question, f"def {name}({parameter}):\n    return {parameter} {sign} {number}"
        )
    if kind == 1:
        word, number = rng.choice(v.WORDS), rng.randint(2, 99)
        question = f"Write a Python loop that prints {word} {number} times."
        return _task("code", (word, number), question, f'for index in range({number}):\n    print("{word}")')
    name, fields = rng.choice(v.CLASS_NAMES), rng.sample(v.FIELDS, rng.randint(2, 3))
    question = f"Write a Python class {name} with the fields {', '.join(fields[:-1])} and {fields[-1]}."
    lines = [f"class {name}:", f"    def __init__(self, {', '.join(fields)}):"]
    lines += [f"        self.{field} = {field}" for field in fields]
    return _task("code", (name, fields), question, "\n".join(lines))


def prose(rng: random.Random) -> Task:
    """A short story or letter whose slots come from the question."""
    name, other = rng.sample(v.NAMES, 2)
    if rng.random() < 0.5:
        animal, place, food = rng.choice(v.ANIMALS), rng.choice(v.PLACES), rng.choice(v.FOODS)
        question = (
            f"Write a short story about a {animal} named {name} who lives in the {place} and likes {food}."
        )
        answer = (
            f"Once upon a time there was a {animal} named {name}. "
            f"{name} lived in the {place} and loved {food}. "
            f"One day there were no {food} left in the {place}, so the {animal} went to ask a friend. "
            f'"Take some of mine," said {other_friend(name)}. '
            f"From that day on, {name} always shared the {food}."
        )
        return _task("prose", (name, animal, place, food), question, answer)
    thing, color, city = rng.choice(v.THINGS), rng.choice(v.COLORS), rng.choice(v.CITIES)
    question = f"Write a letter from {name} to {other} in {city} to say thanks for the {color} {thing}."
    answer = (
        f"Dear {other},\nthank you very much for the {color} {thing}. "
        f"It is the best {thing} I have ever had, "
        f"and {color} is my favorite color. I hope to see you in {city} soon.\nYours, {name}"
    )
    return _task("prose", (name, other, thing, color, city), question, answer)


def other_friend(name: str) -> str:
    """The name that follows ``name`` in the vocabulary: a fixed friend for every story."""
    return v.NAMES[(v.NAMES.index(name) + 1) % len(v.NAMES)]


def lookup(rng: random.Random) -> Task:
    """A question about one of several facts."""
    names = rng.sample(v.NAMES, rng.randint(3, 5))
    foods = rng.sample(v.FOODS, len(names))
    facts = [(name, rng.randint(2, 99), food) for name, food in zip(names, foods, strict=True)]
    text = " ".join(f"{name} has {number} {food}." for name, number, food in facts)
    name, number, food = rng.choice(facts)
    if rng.random() < 0.5:
        return _task("lookup", (text, name), f"{text} What does {name} have?", f"{name} has {number} {food}.")
    return _task(
        "lookup", (text, food), f"{text} Who has {food}?", f"{name} has {food}. There are {number} {food}."
    )


def copying(rng: random.Random) -> Task:
    """Words repeated or reversed."""
    words = rng.sample(v.WORDS, rng.randint(4, 8))
    listed = " ".join(words)
    kind = rng.randrange(3)
    if kind == 0:
        return _task("copying", listed, f"Repeat: {listed}", listed)
    if kind == 1:
        return _task("copying", listed, f"Repeat twice: {listed}", f"{listed}\n{listed}")
    return _task("copying", listed, f"Reverse: {listed}", " ".join(reversed(words)))


def counting(rng: random.Random) -> Task:
    """Numbers from one to another."""
    step = rng.choice([1, 1, 2, 5, -1])
    length = rng.randint(4, 12)
    start = rng.randint(1, 99 - (length - 1) * step) if step > 0 else rng.randint(length, 99)
    numbers = [start + index * step for index in range(length)]
    how = {1: "", 2: " in steps of 2", 5: " in steps of 5", -1: " backwards"}[step]
    question = f"Count from {numbers[0]} to {numbers[-1]}{how}."
    return _task("counting", question, question, ", ".join(map(str, numbers)) + ".")


def table(rng: random.Random) -> Task:
    """A Markdown table from rows given in the question."""
    names = rng.sample(v.NAMES, rng.randint(2, 3))
    rows = [(name, rng.randint(10, 99), rng.choice(v.CITIES)) for name in names]
    listed = "; ".join(f"{name} {age} {city}" for name, age, city in rows)
    lines = ["| name | age | city |", "| --- | --- | --- |", *(f"| {n} | {a} | {c} |" for n, a, c in rows)]
    return _task("table", listed, f"Make a table of: {listed}.", "\n".join(lines))


CATEGORIES: dict[str, tuple[Callable[[random.Random], Task], float]] = {
    "arithmetic": (arithmetic, 2.0),
    "json": (json_record, 1.0),
    "sorting": (sorting, 2.0),
    "units": (unit_conversion, 1.0),
    "code": (code, 1.0),
    "prose": (prose, 0.7),
    "lookup": (lookup, 1.0),
    "copying": (copying, 1.2),
    "counting": (counting, 1.2),
    "table": (table, 0.7),
}

SMALL_TALK = (
    (
        ("Hello", "Hello!", "Hi", "Hi there!", "Good morning"),
        "Hello! I am a very small model. I can add, sort, count, copy, convert units, and write JSON, "
        "tables, short code and short stories.",
    ),
    (
        ("Who are you?", "What are you?", "What can you do?", "Help"),
        "I am a tiny tri-mode model. I answer token by token, block by block, or by drafting a block and "
        "verifying it.",
    ),
    (("Thanks", "Thank you", "Thank you!", "Thanks!"), "You are welcome!"),
)


def draw(
    rng: random.Random,
    held_out: bool,
    category: str | None = None,
    weights: Mapping[str, float] | None = None,
) -> Task:
    """Draw one task of the training split or of the held-out split, of ``category`` or of any by weight.

    ``weights`` replaces the weights of some categories.
    """
    if category is None:
        names = list(CATEGORIES)
        changed = weights or {}
        category = rng.choices(names, [changed.get(name, CATEGORIES[name][1]) for name in names])[0]
    make = CATEGORIES[category][0]
    while True:
        task = make(rng)
        if task.held_out == held_out:
            return task


def draw_small_talk(rng: random.Random) -> Task:
    """Draw a greeting; small talk is not scored and has no held-out split."""
    questions, answer = rng.choice(SMALL_TALK)
    question = rng.choice(questions)
    return Task("small talk", question, question, answer)
