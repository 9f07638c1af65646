# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The page through HTTP: what Gradio's server makes of the handlers."""

import json
import re
import socket
import time
from collections.abc import Iterator

import pytest

from tests.demo.conftest import CallCounter, make_writer
from tests.demo.test_fragments import Reader
from transformers_fsdfm.demo.handlers import Handlers
from transformers_fsdfm.demo.page import MAX_WAITING, build_page, serve
from transformers_fsdfm.demo.sampling import Sampler


pytest.importorskip("gradio", reason="the page needs gradio")
gradio_client = pytest.importorskip("gradio_client", reason="comes with gradio")
httpx = pytest.importorskip("httpx", reason="comes with gradio")

SHARED = ("Once upon a time", 20, "cumulative_scalar", 1.0, 0)  # text, new tokens, solver, temperature, seed
LONG = ("", 60, "cumulative_scalar", 1.0, 0)


@pytest.fixture(scope="module")
def server(byte_tokenizer) -> Iterator[tuple[str, CallCounter]]:
    """A running page and the counter of its network."""
    writer = make_writer(byte_tokenizer)
    counter = CallCounter(writer)
    handlers = Handlers(writer, sampler=Sampler(interval=0.02))
    page = build_page(handlers, "<p>the plot</p>")
    yield serve(page), counter
    handlers.close()
    page.close()


@pytest.fixture
def address(server) -> str:
    return server[0]


@pytest.fixture
def counter(server) -> Iterator[CallCounter]:
    """Counts anew; the network is fast again after the test."""
    counter = server[1]
    assert counter.has_stopped()
    counter.calls = 0
    yield counter
    counter.seconds = 0.0


@pytest.fixture(scope="module")
def client(server):
    return gradio_client.Client(server[0], verbose=False)


def shown(html: str) -> str:
    return Reader(html).text


def start(address: str, name: str, values: tuple) -> str:
    """Begins an event as a browser would -> its address."""
    answer = httpx.post(f"{address}gradio_api/call/{name}", json={"data": list(values)})
    return f"{address}gradio_api/call/{name}/{answer.raise_for_status().json()['event_id']}"


def test_writes(client):
    status, text, timeline = client.predict(*SHARED, 4, api_name="/write")
    assert shown(status).startswith("20 tokens in 4 steps")
    assert shown(text).startswith("Once upon a time")
    assert "FS-DFM, 4 steps" in Reader(timeline).attributes["srcdoc"]


def test_drafts_come_while_it_writes(client, counter):
    counter.seconds = 0.02
    job = client.submit(*LONG, 32, api_name="/write")
    job.result()
    texts = [text for _, text, _ in job.outputs()]
    assert len(set(texts)) > 5


def test_races(client):
    status, table, _ = client.predict(*SHARED, api_name="/race")
    assert shown(status) == "All 5 have finished"
    assert "FS-DFM16done" in shown(table)


def test_a_script_is_text(client):
    _, text, _ = client.predict("<script>alert(1)</script>", *SHARED[1:], 2, api_name="/write")
    assert "script" not in Reader(text).tags
    assert shown(text).startswith("<script>alert(1)</script>")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("___x___", *SHARED[1:], 4), "bad blank"),
        (("Once", 64, *SHARED[2:], 4), "The text would have"),
        ((*SHARED, 0), "minimum value 1"),
        ((*SHARED, 1025), "maximum value 1024"),
        (("Once", 65, *SHARED[2:], 4), "maximum value 64"),
        (("Once", 20, "heun", 1.0, 0, 4), "heun"),
        (("Once", 20, "euler", 0.0, 0, 4), "minimum value 0.05"),
        (("Once", 20, "euler", 1.0, -1, 4), "minimum value 0"),
    ],
)
def test_what_is_not_allowed_is_an_error_and_no_work(client, counter, values, words):
    with pytest.raises(Exception, match=re.escape(words)):
        client.predict(*values, api_name="/write")
    assert counter.calls == 0


def test_cancelling_ends_the_sampling(client, counter):
    counter.seconds = 0.02
    job = client.submit(*LONG, 1024, api_name="/write")
    while counter.calls < 3:
        time.sleep(0.01)
    job.cancel()
    time.sleep(0.3)
    calls = counter.calls
    time.sleep(0.5)
    assert counter.calls == calls < 50


# Calls of the network before the page is closed, and those that it must not reach: some 400, and 32 in the race.
@pytest.mark.parametrize(("name", "values", "seen", "limit"), [("write", (*LONG, 1024), 5, 30), ("race", LONG, 18, 28)])
def test_closing_the_page_ends_the_sampling(address, counter, name, values, seen, limit):
    counter.seconds = 0.1
    with httpx.stream("GET", start(address, name, values), timeout=30) as stream:
        lines = stream.iter_lines()
        while counter.calls < seen:
            next(lines)
    assert counter.has_stopped()
    assert counter.calls < limit


def test_one_works_at_a_time_and_the_others_wait(client, counter):
    counter.seconds = 0.02
    first = client.submit(*LONG, 32, api_name="/write")
    while counter.calls < 3:
        time.sleep(0.01)
    others = [client.submit(*SHARED, api_name="/race"), client.submit(*SHARED, 4, api_name="/write")]
    while counter.calls < 20:
        assert not any(job.outputs() for job in others)
        time.sleep(0.01)
    assert [shown(job.result()[0])[:12] for job in (first, *others)] == ["60 tokens in", "All 5 have f", "20 tokens in"]


def test_no_more_than_the_queue_holds_may_wait(address, counter):
    counter.seconds = 0.02
    first = start(address, "write", (*LONG, 1024))
    with httpx.stream("GET", first, timeout=30):
        while counter.calls < 1:
            time.sleep(0.01)
        answers = [
            httpx.post(f"{address}gradio_api/call/write", json={"data": [*LONG, 1]}) for _ in range(MAX_WAITING + 1)
        ]
    assert [answer.is_success for answer in answers] == [True] * MAX_WAITING + [False]


def test_page_is_at_loopback_and_asks_nothing_from_other_hosts(address):
    assert address.startswith("http://127.0.0.1:")
    answer = httpx.get(address)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self' ")
    assert "http" not in policy
    assert not re.findall(r"fonts\.googleapis|fonts\.gstatic", answer.text)


def test_plot_has_a_tab_only_if_there_is_one(address, handlers):
    config = json.dumps(httpx.get(f"{address}config").json())
    assert "<p>the plot</p>" in config
    assert '"Quality"' in config
    assert '"Quality"' not in json.dumps(build_page(handlers).get_config_file())


@pytest.mark.parametrize(("usual", "power"), [(8, 8), (10, None), (5000, 1024), (None, 1024)])
def test_steps_begin_with_those_of_the_model(handlers, writer, usual, power):
    writer.model.generation_config.num_steps = usual
    components = build_page(handlers).get_config_file()["components"]
    values = {one["props"].get("label"): one["props"].get("value") for one in components}
    assert values["Powers of two"] == power
    assert values["Steps"] == (10 if usual == 10 else power)


def test_files_are_not_taken(address):
    answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.txt", b"12")})
    assert not answer.is_success


def test_serving_talks_to_nobody_but_itself(writer, sampler, monkeypatch):
    addresses, connect = [], socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: addresses.append(to[0]) or connect(self, to))
    page = build_page(Handlers(writer, sampler=sampler))
    address = serve(page)
    assert httpx.get(f"{address}config").json()["analytics_enabled"] is False
    time.sleep(1)
    page.close()
    assert set(addresses) == {"127.0.0.1"}
