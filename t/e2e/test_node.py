"""The openai and ollama packages for Node, called through client.cjs."""

import json
import pathlib
import subprocess

import pytest

from clients import ENDLESS, STORY
from harness import PATIENCE, USER_TOKEN, established, wait_until


CLIENT = pathlib.Path(__file__).with_name("client.cjs")
LIMIT = 12


def start(call, gateway, model, limit=LIMIT, token=USER_TOKEN, **more):
    job = {"call": call, "url": gateway.url, "model": model, "limit": limit,
           "token": token, "question": STORY, **more}
    return subprocess.Popen(["node", CLIENT, json.dumps(job)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run(call, gateway, model, **more):
    output, _ = start(call, gateway, model, **more).communicate(
        timeout=PATIENCE)
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("call, more", [
    ("openaiChat", {}), ("openaiStream", {"usage": True})])
def test_openai(gateway, upstream, call, more):
    result = run(call, gateway, upstream.model, **more)

    assert result["what"] == "result" and result["text"]
    assert result["completion"] == LIMIT
    line = gateway.assert_counted(upstream.model, result["prompt"],
                                  result["completion"])
    assert result.get("id", line["request_id"]) == line["request_id"]
    assert result.get("usages", 1) == 1


def test_openai_stream_without_usage(gateway, upstream):
    result = run("openaiStream", gateway, upstream.model)

    assert result["what"] == "result" and result["text"]
    assert result["usages"] == result["empty"] == 0
    line, = gateway.wait_log()
    assert int(line["completion_tokens"]) == LIMIT
    assert line["usage_source"] == "upstream"


@pytest.mark.parametrize("call", ["openaiResponses", "ollamaChat",
                                  "ollamaStream", "ollamaGenerate"])
def test_ollama(ollama_gateway, ollama, call):
    result = run(call, ollama_gateway, ollama.model)

    assert result["what"] == "result" and result["text"]
    ollama_gateway.assert_counted(ollama.model, result["prompt"],
                                  result["completion"])


@pytest.mark.parametrize("call, name", [
    ("openaiChat", "AuthenticationError"),
    ("openaiStream", "AuthenticationError"),
    ("ollamaChat", "ResponseError")])
def test_wrong_token(ollama_gateway, ollama, call, name):
    result = run(call, ollama_gateway, ollama.model, token="wrong")

    assert result["what"] == "error" and result["name"] == name
    assert result["status"] == 401
    assert "token" in result["message"]
    assert "[object" not in result["message"]


@pytest.mark.parametrize("call", ["openaiStream", "ollamaStream"])
def test_killed_runner(ollama_gateway, ollama, call):
    client = start(call, ollama_gateway, ollama.model, limit=ENDLESS)
    assert json.loads(client.stdout.readline())["what"] == "chunk"
    ollama.kill_runner()
    output, _ = client.communicate(timeout=PATIENCE)

    assert json.loads(output.splitlines()[-1])["what"] == "error"
    ollama_gateway.assert_failed("incomplete")


@pytest.mark.parametrize("call", ["openaiStream", "ollamaStream"])
def test_killed_client(ollama_gateway, ollama, call):
    """A client that dies ends the generation and is counted."""
    client = start(call, ollama_gateway, ollama.model, limit=ENDLESS)
    assert json.loads(client.stdout.readline())["what"] == "chunk"
    client.kill()
    client.communicate(timeout=PATIENCE)

    line, = ollama_gateway.assert_failed("client_abort")
    assert 1 <= int(line["completion_tokens"]) < ENDLESS
    wait_until("the upstream connection to be closed",
               lambda: established(ollama.port) == 0, timeout=5)
