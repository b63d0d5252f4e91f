"""What clients see when the gateway or the upstream says no."""

import anthropic
import httpx
import ollama as ollama_package
import openai
import pytest

from clients import (CHAT, QUESTION, TALE, anthropic_client, bearer,
                     ollama_client, openai_client)
from harness import ADMIN_TOKEN, free_port


def ask_openai(gateway, model, token, **more):
    openai_client(gateway, token).chat.completions.create(
        model=model, **CHAT, **more)


def ask_anthropic(gateway, model, token, **more):
    anthropic_client(gateway, token).messages.create(
        model=model, messages=QUESTION, max_tokens=8, **more)


def ask_ollama(gateway, model, token, **more):
    reply = ollama_client(gateway, token).chat(model=model, messages=QUESTION,
                                               **more)
    if more.get("stream"):
        list(reply)


def assert_nothing_upstream(gateway, status):
    line, = gateway.wait_log()
    assert line["status"] == status
    assert line["upstream_addr"] == ""
    metrics = gateway.metrics()
    assert metrics.value("clawdbot_model_request_total") == 0
    assert metrics.value("clawdbot_rejected_total") == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ask, error", [
    (ask_openai, openai.AuthenticationError),
    (ask_anthropic, anthropic.AuthenticationError),
    (ask_ollama, ollama_package.ResponseError)])
def test_wrong_token(ollama_gateway, ollama, ask, error, stream):
    with pytest.raises(error) as caught:
        ask(ollama_gateway, ollama.model, "wrong-token", stream=stream)

    assert caught.value.status_code == 401
    assert "token" in str(caught.value)
    assert_nothing_upstream(ollama_gateway, 401)


def test_wrong_token_details(ollama_gateway, ollama):
    with pytest.raises(openai.AuthenticationError) as caught:
        ask_openai(ollama_gateway, ollama.model, "wrong-token")

    assert caught.value.code == "invalid_api_key"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.response.headers["www-authenticate"] == "Bearer"
    assert caught.value.request_id


def test_wrong_token_details_anthropic(ollama_gateway, ollama):
    with pytest.raises(anthropic.AuthenticationError) as caught:
        ask_anthropic(ollama_gateway, ollama.model, "wrong-token")

    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "authentication_error"
    assert caught.value.request_id


@pytest.mark.parametrize("path, message", [
    ("/v1/chat/completions", lambda body: body["error"]["message"]),
    ("/v1/messages", lambda body: body["error"]["message"]),
    ("/api/chat", lambda body: body["error"])])
def test_no_token(ollama_gateway, ollama, path, message):
    reply = httpx.post(ollama_gateway.url + path,
                       json={"model": ollama.model, "messages": QUESTION})

    assert reply.status_code == 401
    assert "gateway token missing" in message(reply.json())
    assert_nothing_upstream(ollama_gateway, 401)


@pytest.mark.parametrize("call", [
    lambda client, name: client.show(name),
    lambda client, name: client.pull(name),
    lambda client, name: client.copy(name, "stolen"),
    lambda client, name: client.delete(name),
    lambda client, name: client.create("mine", from_=name),
    lambda client, name: list(client.push(name, stream=True))],
    ids=["show", "pull", "copy", "delete", "create", "push"])
def test_admin_route(ollama_gateway, ollama, call):
    with pytest.raises(ollama_package.ResponseError) as caught:
        call(ollama_client(ollama_gateway), ollama.model)

    assert caught.value.status_code == 403
    assert_nothing_upstream(ollama_gateway, 403)


@pytest.mark.parametrize("ask, error", [
    (ask_openai, openai.NotFoundError),
    (ask_anthropic, anthropic.NotFoundError),
    (ask_ollama, ollama_package.ResponseError)])
def test_unknown_model(ollama_gateway, ask, error):
    token = ADMIN_TOKEN
    with pytest.raises(error) as caught:
        ask(ollama_gateway, "no-such-model", token)

    assert caught.value.status_code == 404
    assert "no-such-model" in str(caught.value)
    ollama_gateway.assert_failed("upstream_4xx")
    metrics = ollama_gateway.metrics()
    assert metrics.value("clawdbot_model_request_total", model="other") == 1
    assert metrics.value("clawdbot_tokens_total") == 0


@pytest.mark.parametrize("ask, error", [
    (ask_openai, openai.InternalServerError),
    (ask_anthropic, anthropic.InternalServerError),
    (ask_ollama, ollama_package.ResponseError)])
def test_upstream_down(start_gateway, ask, error):
    gateway = start_gateway(f"127.0.0.1:{free_port()}")
    with pytest.raises(error) as caught:
        ask(gateway, "any", ADMIN_TOKEN)

    assert caught.value.status_code == 502
    assert "<html" not in str(caught.value)
    gateway.assert_failed("connect")


@pytest.mark.parametrize("path", ["/v1/files", "/api/unknown", "/metrics",
                                  "/v1/chat/completions/"])
def test_unknown_path(ollama_gateway, path):
    reply = httpx.get(ollama_gateway.url + path, headers=bearer(ADMIN_TOKEN))

    assert reply.status_code == 404
    assert reply.json()["error"]
    line, = ollama_gateway.wait_log()
    assert line["upstream_addr"] == ""


def test_wrong_method(ollama_gateway):
    with pytest.raises(openai.APIStatusError) as caught:
        openai_client(ollama_gateway).get("/chat/completions", cast_to=object)

    assert caught.value.status_code == 405
    assert caught.value.response.headers["allow"] == "POST"


@pytest.mark.parametrize("fields, tokens", [
    ({"max_completion_tokens": 50}, 5), ({"max_completion_tokens": 3}, 3),
    ({"max_tokens": 50}, 5), ({"max_tokens": 3}, 3), ({"max_tokens": 0}, 5),
    ({"max_tokens": -1}, 5), ({}, 5)])
@pytest.mark.parametrize("stream", [False, True])
def test_max_tokens_openai(start_gateway, ollama, fields, tokens, stream):
    gateway = start_gateway(ollama, "clawd_max_tokens 5;")
    reply = openai_client(gateway).chat.completions.create(
        model=ollama.model, **CHAT, stream=stream, **fields,
        **({"stream_options": {"include_usage": True}} if stream else {}))
    usage = list(reply)[-1].usage if stream else reply.usage

    assert usage.completion_tokens == tokens
    gateway.assert_counted(ollama.model, usage.prompt_tokens, tokens)


@pytest.mark.parametrize("options, tokens", [
    ({"num_predict": 50}, 5), ({"num_predict": 3}, 3),
    ({"num_predict": -1}, 5), ({"num_predict": 0}, 5), ({}, 5), (None, 5),
    ({"temperature": 0}, 5)])
def test_max_tokens_ollama(start_gateway, ollama, options, tokens):
    gateway = start_gateway(ollama, "clawd_max_tokens 5;")
    reply = ollama_client(gateway).chat(model=ollama.model, messages=QUESTION,
                                        options=options)

    assert reply.eval_count == tokens


@pytest.mark.parametrize("asked, tokens", [(50, 5), (3, 3)])
def test_max_tokens_others(start_gateway, ollama, asked, tokens):
    gateway = start_gateway(ollama, "clawd_max_tokens 5;")

    assert anthropic_client(gateway).messages.create(
        model=ollama.model, messages=QUESTION,
        max_tokens=asked).usage.output_tokens == tokens
    client = openai_client(gateway)
    assert client.responses.create(
        model=ollama.model, input=QUESTION,
        max_output_tokens=asked).usage.output_tokens == tokens
    assert client.completions.create(
        model=ollama.model, max_tokens=asked,
        **TALE).usage.completion_tokens == tokens


@pytest.mark.parametrize("asked, tokens", [(50, 5), (3, 3)])
def test_max_tokens_llama(start_gateway, llama, asked, tokens):
    gateway = start_gateway(llama, "clawd_max_tokens 5;")
    client = openai_client(gateway)

    for field in ("max_tokens", "max_completion_tokens"):
        assert client.chat.completions.create(
            model=llama.model, **CHAT,
            **{field: asked}).usage.completion_tokens == tokens
