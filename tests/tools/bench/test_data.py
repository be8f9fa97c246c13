import json

import pytest

from nemotron_diffusion_plugin.tools.bench.data import SPEED_BENCH_PLACEHOLDER, open_source
from nemotron_diffusion_plugin.tools.training.tasks import CATEGORIES


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_tiny_tasks_are_the_same_each_time_and_never_twice():
    first, second = (open_source("tiny", None, seed=3) for _ in range(2))
    assert first.categories == tuple(CATEGORIES)
    later = second.take("json", 40, 10)
    prompts = first.take("json", 0, 50)
    assert prompts[40:] == later
    assert len({prompt.messages[0]["content"] for prompt in prompts}) == 50
    assert all(prompt.category == "json" and prompt.is_right(f" {prompt.answer}\n") for prompt in prompts)
    assert not prompts[0].is_right(prompts[1].answer)
    assert open_source("tiny", None, seed=4).take("json", 0, 50) != prompts


def test_a_small_category_repeats_itself_instead_of_waiting():
    prompts = open_source("tiny", ["counting"], seed=0).take("counting", 0, 240)
    assert len(prompts) == 240
    assert 100 < len({prompt.messages[0]["content"] for prompt in prompts}) < 240


def test_mixed_takes_the_categories_in_turn():
    source = open_source("tiny", ["code", "table"], seed=0)
    mixed = source.mixed(7, 5)
    assert [prompt.category for prompt in mixed] == ["code", "table", "code", "table", "code"]
    assert mixed[0::2] == source.take("code", 7, 3)
    assert mixed[1::2] == source.take("table", 7, 2)


def test_messages_by_line(tmp_path):
    asked = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    answered = [*asked, {"role": "assistant", "content": "a"}]
    rows = [{"messages": answered, "category": "x", "answer": "a"}, {"messages": asked}]
    source = open_source(write(tmp_path / "a.jsonl", rows), None, seed=0)
    assert source.categories == ("x", "all")
    [prompt] = source.take("x", 0, 1)
    assert prompt.messages == tuple(asked)
    assert prompt.is_right("a")
    [other] = source.take("all", 0, 1)
    assert other.is_right("a") is None
    assert source.take("x", 0, 3) == [prompt] * 3


def test_only_a_newline_ends_a_line_of_a_file(tmp_path):
    path = tmp_path / "a.jsonl"
    content = "one\u2028two\u0085three"
    row = {"messages": [{"role": "user", "content": content}]}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\r\n\n", encoding="utf-8", newline="")
    [prompt] = open_source(str(path), None, seed=0).take("all", 0, 1)
    assert prompt.messages[0]["content"] == content


def test_different_prompts_are_as_many_as_there_are(tmp_path):
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ("a", "b", "a")]
    source = open_source(write(tmp_path / "a.jsonl", rows), None, seed=0)
    assert sorted(p.messages[0]["content"] for p in source.different("all", 8)) == ["a", "b"]
    assert len(source.different("all", 1)) == 1
    assert len(open_source("tiny", ["counting"], seed=0).different("counting", 240)) < 240


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "a.jsonl:1: not valid JSON"),
        ("[]", "expected an object with 'messages'"),
        ("{}", "field 'messages': expected a list"),
        ('{"messages": [{"role": "user"}]}', "field 'messages': expected a list"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "with a user's message"),
        ('{"messages": [{"role": "user", "content": "a"}], "answer": 3}', "field 'answer': expected a text"),
        ("", "no prompts in it"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=message):
        open_source(str(path), None, seed=0)


def test_share_gpt(tmp_path):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "r"}]
    path = tmp_path / "sharegpt.json"
    path.write_text(json.dumps([{"conversations": turns}, {"conversations": turns[1:]}]))
    source = open_source(str(path), None, seed=0)
    assert [p.messages for p in source.take("all", 0, 2)] == [({"role": "user", "content": "q"},)] * 2
    path.write_text('{"conversations": []}')
    with pytest.raises(ValueError, match="expected a list of objects with 'conversations'"):
        open_source(str(path), None, seed=0)


@pytest.mark.parametrize("speaker", ["chatgpt", "bing", "bard", "model", None])
def test_every_other_speaker_of_share_gpt_answers(tmp_path, speaker):
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": speaker, "value": "a"},
        {"from": "human", "value": "r"},
    ]
    path = tmp_path / "sharegpt.json"
    path.write_text(json.dumps([{"conversations": turns}]))
    [prompt] = open_source(str(path), None, seed=0).take("all", 0, 1)
    assert prompt.messages == ({"role": "system", "content": "s"}, {"role": "user", "content": "q"})


def test_speed_bench(tmp_path):
    rows = [
        {
            "category": "math",
            "messages": [{"role": "user", "content": "2+2"}, {"role": "user", "content": "more"}],
        },
        {"category": "qa", "turns": ["who?", "why?"]},
    ]
    write(tmp_path / "qualitative.jsonl", rows)
    source = open_source(str(tmp_path), ["qa", "math"], seed=0)
    assert source.take("math", 0, 1)[0].messages == ({"role": "user", "content": "2+2"},)
    assert source.take("qa", 0, 1)[0].messages == ({"role": "user", "content": "who?"},)


def test_speed_bench_placeholders_and_missing_files_say_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"has no qualitative.jsonl. SPEED-Bench cannot be bundled"):
        open_source(str(tmp_path), None, seed=0)
    write(tmp_path / "qualitative.jsonl", [{"category": "a", "turns": [f"{SPEED_BENCH_PLACEHOLDER} FROM"]}])
    with pytest.raises(ValueError, match=r"jsonl:1: a placeholder instead of the prompt.*prepare.py"):
        open_source(str(tmp_path), None, seed=0)


def test_unknown_data_and_categories(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such file or folder, expected 'tiny'"):
        open_source(str(tmp_path / "nowhere"), None, seed=0)
    with pytest.raises(ValueError, match="unknown category 'poems' of tiny, expected arithmetic, json"):
        open_source("tiny", ["json", "poems"], seed=0)
