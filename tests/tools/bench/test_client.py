import threading

import pytest

from nemotron_diffusion_plugin.tools.bench import client
from nemotron_diffusion_plugin.tools.bench.server import free_port
from tests.tools.bench.fake_server import HISTOGRAM, TEXT

pytest.importorskip("httpx")


def bodies(count):
    return [
        {"model": "fake", "messages": [{"role": "user", "content": str(number)}]} for number in range(count)
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_replies_come_in_the_order_of_the_requests(fake, url, stream):
    fake.together = threading.Barrier(3)
    replies, seconds = client.run(url, bodies(7), 3, stream, timeout=20)
    assert len(replies) == len(fake.requests) == 7
    assert fake.busiest == 3
    assert sorted(body["messages"][0]["content"] for body in fake.requests) == [str(n) for n in range(7)]
    assert {reply.text for reply in replies} == {TEXT}
    assert {(reply.prompt_tokens, reply.tokens) for reply in replies} == {(3, 9)}
    assert 0 < max(reply.latency for reply in replies) <= seconds
    assert all(reply.histogram == ([] if stream else HISTOGRAM) for reply in replies)


def test_times_of_a_stream(fake, url):
    [reply], _ = client.run(url, bodies(1), 1, True, timeout=20)
    assert 0 < reply.first <= reply.latency
    assert len(reply.gaps) == 1
    assert reply.time_per_token == pytest.approx((reply.latency - reply.first) / 8)
    assert fake.requests[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("end", ["\u0085", "\u2028", "\u2029", "\x1c"])
def test_only_a_newline_ends_a_line_of_a_stream(fake, url, end):
    fake.options.text = f"one{end}line and{end}more"
    [reply], _ = client.run(url, bodies(1), 1, True, timeout=20)
    assert reply.text == fake.options.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_shown(fake, url, stream):
    fake.options.refuse = True
    with pytest.raises(client.RequestError, match=r'the server answered 400: .*"no such option"'):
        client.run(url, bodies(3), 2, stream, timeout=20)


def test_nobody_listens():
    with pytest.raises(client.RequestError, match="a request was lost: ConnectError"):
        client.run(f"http://127.0.0.1:{free_port()}", bodies(3), 2, False, timeout=5)
