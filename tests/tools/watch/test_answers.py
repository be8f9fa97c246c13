"""The events of an answer, from a stand-in that streams known steps."""

import pytest

from nemotron_diffusion_plugin.options import FIXED_MODES
from nemotron_diffusion_plugin.tools.client.served_model import find_model
from nemotron_diffusion_plugin.tools.watch.answers import ask
from tests.tools.watch.conftest import STEPS, StandIn


@pytest.mark.parametrize("mode", FIXED_MODES)
def test_one_event_for_each_step_and_the_counts_at_the_end(model_server: StandIn, mode) -> None:
    *steps, end = ask(find_model(model_server.url), mode, "Who?", 7)
    assert [event["tokens"] for event in steps] == STEPS[mode.value]
    assert {event["kind"] for event in steps} == {"tokens"}
    times = [event["seconds"] for event in (*steps, end)]
    assert times == sorted(times)
    tokens = sum(map(len, STEPS[mode.value]))
    assert (end["kind"], end["tokens"], end["finish_reason"]) == ("end", tokens, "stop")
    assert (end["forwards"], end["tokens_per_forward"]) == (3, tokens / 3)
    assert end.get("acceptance_length") == (2.0 if mode.value == "self_speculation" else None)


def test_asks_greedily_in_the_mode(model_server: StandIn) -> None:
    list(ask(find_model(model_server.url), FIXED_MODES[1], "Who?", 7))
    body = model_server.bodies[0]
    assert body["vllm_xargs"] == {"decoding_mode": "diffusion"}
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0, 7, True)
    assert body["messages"] == [{"role": "user", "content": "Who?"}]


def test_a_server_without_counters_gives_no_counts(model_server: StandIn) -> None:
    model_server.has_counters = False
    *_, end = ask(find_model(model_server.url), FIXED_MODES[0], "Who?", 7)
    assert end["tokens"] == 3
    assert "forwards" not in end


def test_a_refusal_is_an_event(model_server: StandIn) -> None:
    model_server.refuses = True
    (event,) = ask(find_model(model_server.url), FIXED_MODES[0], "Who?", 7)
    assert event["kind"] == "error"
    assert "400" in event["message"]


def test_a_server_that_dies_in_the_middle_is_an_event(model_server: StandIn) -> None:
    first, last = ask(find_model(model_server.url), FIXED_MODES[0], "die", 7)
    assert (first["kind"], last["kind"]) == ("tokens", "error")
    assert last["message"]
