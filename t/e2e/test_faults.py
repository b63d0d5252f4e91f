"""Killed runners, busy storms, cold models and clients that go away."""

import concurrent.futures
import json

import anthropic
import httpx
import ollama as ollama_package
import openai
import pytest

from clients import (CHAT, ENDLESS, QUESTION, STORY, TALE, anthropic_client,
                     bearer, ollama_client, openai_client)
from harness import PATIENCE, Llama, Ollama, established, wait_until


def openai_chat(gateway, model):
    with openai_client(gateway).chat.completions.create(
            model=model, **CHAT, max_tokens=ENDLESS,
            stream=True) as stream:
        for chunk in stream:
            yield chunk.choices[0].delta.content


def openai_completions(gateway, model):
    with openai_client(gateway).completions.create(
            model=model, max_tokens=ENDLESS, stream=True, **TALE) as stream:
        for chunk in stream:
            yield chunk.choices[0].text


def openai_responses(gateway, model):
    with openai_client(gateway).responses.create(
            model=model, input=QUESTION, max_output_tokens=ENDLESS,
            stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                yield event.delta


def anthropic_messages(gateway, model):
    with anthropic_client(gateway).messages.create(
            model=model, messages=QUESTION, max_tokens=ENDLESS,
            stream=True) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                yield event.delta.text


def ollama_chat(gateway, model):
    for part in ollama_client(gateway).chat(
            model=model, messages=QUESTION, stream=True,
            options={"num_predict": ENDLESS}):
        yield part.message.content


def ollama_generate(gateway, model):
    for part in ollama_client(gateway).generate(
            model=model, prompt=STORY, stream=True,
            options={"num_predict": ENDLESS}):
        yield part.response


STREAMS = [
    (openai_chat, openai.APIError),
    (openai_completions, openai.APIError),
    (openai_responses, openai.APIError),
    (anthropic_messages, anthropic.APIError),
    (ollama_chat, ollama_package.ResponseError),
    (ollama_generate, ollama_package.ResponseError)]


def take(stream, count=3):
    """Waits for so many pieces of text: the generation is under way."""
    while count > 0:
        if next(stream):
            count -= 1


@pytest.mark.parametrize("ask, error", STREAMS)
def test_killed_runner(ollama_gateway, ollama, ask, error):
    """A broken generation is no success, in any API."""
    stream = ask(ollama_gateway, ollama.model)
    take(stream)
    ollama.kill_runner()
    with pytest.raises(error) as caught:
        list(stream)

    assert not isinstance(caught.value, openai.APIConnectionError)
    line, = ollama_gateway.assert_failed("incomplete")
    assert line["finish_reason"] == ""
    assert line["usage_source"] == "counted"
    assert int(line["completion_tokens"]) >= 3


def test_killed_runner_then_next(ollama_gateway, ollama):
    stream = openai_chat(ollama_gateway, ollama.model)
    take(stream)
    ollama.kill_runner()
    with pytest.raises(openai.APIError):
        list(stream)

    reply = ollama_client(ollama_gateway).chat(
        model=ollama.model, messages=QUESTION, options={"num_predict": 3})
    assert reply.done and reply.eval_count == 3


def test_killed_runner_wire(ollama_gateway, ollama):
    """One error event at the very end, with neither [DONE] nor usage."""
    with httpx.stream("POST", f"{ollama_gateway.url}/v1/chat/completions",
                      headers=bearer(), timeout=PATIENCE,
                      json={"model": ollama.model, "messages": QUESTION,
                            "stream": True}) as reply:
        lines = reply.iter_lines()
        next(lines)
        ollama.kill_runner()
        events = [line for line in lines if line.startswith("data: ")]

    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert error["type"] == "server_error"
    assert error["code"] == "upstream_error"
    assert error["message"]
    assert not any("[DONE]" in event or '"usage"' in event for event in events)
    assert sum('"error"' in event for event in events) == 1


def test_killed_runner_native_wire(ollama_gateway, ollama):
    """Ollama says it itself here: no second error line."""
    body = {"model": ollama.model, "messages": QUESTION}
    with httpx.stream("POST", f"{ollama_gateway.url}/api/chat", json=body,
                      headers=bearer(), timeout=PATIENCE) as reply:
        lines = reply.iter_lines()
        next(lines)
        ollama.kill_runner()
        rest = [json.loads(line) for line in lines]

    assert [("error" in line) for line in rest].count(True) == 1
    assert "error" in rest[-1]


def test_killed_runner_without_stream(ollama_gateway, ollama):
    ollama.load()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reply = pool.submit(
            openai_client(ollama_gateway).chat.completions.create,
            model=ollama.model, **CHAT, max_tokens=ENDLESS)
        before = ollama.runner_ticks()
        wait_until("the runner to be at work",
                   lambda: ollama.runner_ticks() > before + 50)
        assert ollama_gateway.metrics().value(
            "clawdbot_requests_in_flight") == 1
        ollama.kill_runner()
        with pytest.raises(openai.InternalServerError) as caught:
            reply.result()

    assert caught.value.status_code == 500
    ollama_gateway.assert_failed("upstream_5xx")


def test_killed_server(start_gateway, tmp_path):
    """The upstream itself dies in the middle of a stream."""
    llama = Llama(tmp_path)
    gateway = start_gateway(llama)
    stream = openai_chat(gateway, llama.model)
    take(stream)
    llama.process.kill()
    llama.process.wait()
    with pytest.raises(Exception):
        list(stream)

    line, = gateway.wait_log()
    assert line["error"] in ("reset", "incomplete")
    assert int(line["completion_tokens"]) >= 3
    assert gateway.metrics().value("clawdbot_model_error_total",
                                   error_type=line["error"]) == 1


@pytest.fixture
def small_ollama(tmp_path):
    """Refuses early: two wait for a model that must load, one runs."""
    server = Ollama(tmp_path, OLLAMA_MAX_QUEUE="2", OLLAMA_NUM_PARALLEL="1")
    yield server
    server.stop()


@pytest.mark.parametrize("path, fields, kind", [
    ("/v1/chat/completions", {"max_tokens": 3},
     lambda body: body["error"]["type"]),
    ("/v1/messages", {"max_tokens": 3}, lambda body: body["error"]["type"]),
    ("/api/chat", {"options": {"num_predict": 3}, "stream": False},
     lambda body: type(body["error"]).__name__)])
def test_busy_storm(start_gateway, small_ollama, path, fields, kind):
    gateway = start_gateway(small_ollama)

    def ask(_):
        return httpx.post(gateway.url + path, headers=bearer(),
                          timeout=PATIENCE,
                          json={"model": small_ollama.model,
                                "messages": QUESTION, **fields})

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(ask, range(16)))

    busy = [reply for reply in replies if reply.status_code == 503]
    assert busy
    assert {reply.status_code for reply in replies} == {200, 503}
    expected = {"/v1/chat/completions": "api_error",
                "/v1/messages": "overloaded_error", "/api/chat": "str"}
    for reply in busy:
        assert 1 <= int(reply.headers["retry-after"]) <= 59
        assert reply.headers["content-type"].startswith("application/json")
        assert kind(reply.json()) == expected[path]
        assert "busy" in reply.text
        assert reply.headers["x-request-id"]

    lines = gateway.wait_log(16)
    assert sum(line["status"] == 503 for line in lines) == len(busy)
    metrics = gateway.metrics()
    assert metrics.value("clawdbot_model_error_total",
                         error_type="upstream_5xx") == len(busy)
    assert metrics.value("clawdbot_model_request_total") == 16
    assert metrics.value("clawdbot_requests_in_flight") == 0


def test_busy_storm_clients(start_gateway, small_ollama):
    """The clients' own retries, told when to come back, get all through."""
    gateway = start_gateway(small_ollama)

    def ask(_):
        client = openai_client(gateway).with_options(max_retries=8)
        return client.chat.completions.create(
            model=small_ollama.model, **CHAT, max_tokens=3)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(ask, range(6)))

    assert [reply.usage.completion_tokens for reply in replies] == [3] * 6
    wait_until("all log lines", lambda: gateway.metrics().value(
        "clawdbot_model_request_total") == len(gateway.log()))
    assert gateway.metrics().value(
        "clawdbot_tokens_total", type="completion") == 18


def test_unloaded_model(ollama_gateway, ollama):
    """A model that must load first answers as any other."""
    ollama.unload()
    chunks = list(openai_client(ollama_gateway).chat.completions.create(
        model=ollama.model, **CHAT, max_tokens=8, stream=True,
        stream_options={"include_usage": True}))

    usage = chunks[-1].usage
    ollama_gateway.assert_counted(ollama.model, usage.prompt_tokens,
                                  usage.completion_tokens)
    metrics = ollama_gateway.metrics()
    assert metrics.value("clawdbot_time_to_first_token_seconds_count",
                         model=ollama.model) == 1


@pytest.mark.parametrize("ask", [openai_chat, openai_completions])
def test_client_abort(gateway, upstream, ask):
    """A client that leaves ends the generation at once, and pays for it."""
    stream = ask(gateway, upstream.model)
    take(stream)
    assert established(upstream.port) == 1
    stream.close()

    check_abort(gateway, upstream)


@pytest.mark.parametrize("ask", [openai_responses, anthropic_messages,
                                 ollama_chat, ollama_generate])
def test_client_abort_ollama(ollama_gateway, ollama, ask):
    stream = ask(ollama_gateway, ollama.model)
    take(stream)
    stream.close()

    check_abort(ollama_gateway, ollama)


def check_abort(gateway, upstream):
    wait_until("the upstream connection to be closed",
               lambda: established(upstream.port) == 0, timeout=5)
    line, = gateway.assert_failed("client_abort")
    assert line["finish_reason"] == ""
    assert line["usage_source"] == "counted"
    assert 3 <= int(line["completion_tokens"]) < ENDLESS
    metrics = gateway.metrics()
    for kind in ("prompt", "completion"):
        counted = int(line[f"{kind}_tokens"])
        assert counted > 0
        for name in ("clawdbot_tokens_total", "clawdbot_user_tokens_total"):
            assert metrics.value(name, type=kind) == counted


def test_client_abort_frees_the_model(start_gateway, small_ollama):
    """With one place on the model, the next request gets it at once."""
    gateway = start_gateway(small_ollama)
    stream = openai_chat(gateway, small_ollama.model)
    take(stream)
    stream.close()
    reply = ollama_client(gateway).chat(
        model=small_ollama.model, messages=QUESTION,
        options={"num_predict": 3})

    assert reply.eval_count == 3
    aborted, served = gateway.wait_log(2)
    assert aborted["error"] == "client_abort"
    assert served["error"] == ""
    assert served["request_time"] < 10


def test_client_abort_before_first_token(ollama_gateway, ollama):
    """While the model loads nothing has been sent to the client."""
    ollama.unload()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{ollama_gateway.url}/v1/chat/completions",
                   headers=bearer(),
                   timeout=httpx.Timeout(PATIENCE, read=0.1),
                   json={"model": ollama.model, "messages": QUESTION})

    line, = ollama_gateway.assert_failed("client_abort")
    assert line["status"] == 499
    assert line["ttft"] == ""
    wait_until("the upstream connection to be closed",
               lambda: established(ollama.port) == 0, timeout=5)
