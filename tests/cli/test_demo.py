# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm demo`."""

import importlib.util
import json
import re
import signal
import socket
import subprocess
import urllib.request

import pytest

from tests.cli.conftest import last_line
from tests.cli.terminal import FSDFM, heed_ctrl_c


@pytest.fixture
def never_loads(monkeypatch):
    monkeypatch.setattr("transformers_fsdfm.cli.demo.load", lambda *_, **__: pytest.fail("a model was loaded"))


def test_a_port_that_is_taken_is_found_out_before_a_model_is_loaded(run, checkpoint, never_loads):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, error = run("demo", "--model", checkpoint, "--port", port)
    assert code == 1
    assert last_line(error) == f"fsdfm: error: --port {port} is taken; without it, a free one is found"


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_found_out_before_a_model_is_loaded(run, checkpoint, never_loads, host):
    code, _, error = run("demo", "--model", checkpoint, "--host", host)
    assert code == 1
    assert last_line(error).startswith(f"fsdfm: error: --host {host} is no address of this machine: ")


def test_without_gradio_it_says_what_to_install(run, checkpoint, never_loads, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else find_spec(name, *rest)
    )
    code, _, error = run("demo", "--model", checkpoint)
    assert code == 1
    assert "The page needs gradio: pip install" in last_line(error)
    assert '".[demo]"' in last_line(error)


def test_a_dfm_that_is_none_is_called_by_its_own_option(run, checkpoint, tmp_path):
    pytest.importorskip("gradio", reason="the page needs gradio")
    code, _, error = run("demo", "--model", checkpoint, "--dfm", tmp_path)
    assert code == 1
    assert last_line(error) == f"fsdfm: error: --dfm {tmp_path} is no model folder: it has no config.json"


def test_an_evaluation_that_is_none_is_an_error(run, checkpoint, never_loads):
    pytest.importorskip("gradio", reason="the page needs gradio")
    evaluation = checkpoint / "evaluation.json"
    evaluation.write_text("3")
    try:
        code, _, error = run("demo", "--model", checkpoint)
    finally:
        evaluation.unlink()
    assert code == 1
    assert f"{evaluation} is no evaluation" in last_line(error)


def test_with_a_dfm_the_page_has_a_race(run, checkpoint, monkeypatch):
    gradio = pytest.importorskip("gradio", reason="the page needs gradio")
    served = []
    monkeypatch.setattr("transformers_fsdfm.demo.page.serve", lambda *arguments: served.append(arguments) or "there")
    monkeypatch.setattr("transformers_fsdfm.cli.demo._wait", lambda: None)
    code, out, error = run("demo", "--model", checkpoint, "--dfm", checkpoint)
    assert code == 0, error
    assert out == "The page is at there (Ctrl-C ends it)\n"
    page, host, _, share = served.pop()
    assert isinstance(page, gradio.Blocks)
    assert host == "127.0.0.1"
    assert share is False
    assert "then the FS-DFM" in json.dumps(page.get_config_file())


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_number_that_is_no_port_is_wrong_usage(run, port):
    code, _, error = run("demo", "--port", port)
    assert code == 2
    assert "--port" in last_line(error)


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_serves_at_loopback_until_it_is_stopped_even_at_work(checkpoint, stop, code):
    pytest.importorskip("gradio", reason="the page needs gradio")
    command = [*FSDFM, "demo", "--model", checkpoint, "--dfm", checkpoint, "--device", "cpu"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=heed_ctrl_c) as demo:
        try:
            line = demo.stdout.readline()
            found = re.fullmatch(r"The page is at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)
            assert found, line + demo.stderr.read()
            with urllib.request.urlopen(found[1] + "config", timeout=30) as answer:
                config = json.load(answer)
            assert config["title"] == "FS-DFM"
            work = json.dumps({"data": ["", 60, "cumulative_scalar", 1, 0, 1024]}).encode()  # some 400 network calls
            request = urllib.request.Request(
                found[1] + "gradio_api/call/write", data=work, headers={"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=30).close()
            demo.send_signal(stop)
            assert demo.wait(timeout=30) == code
        finally:
            demo.kill()
        assert "Traceback" not in demo.stderr.read()
        assert demo.stdout.read() == ""
