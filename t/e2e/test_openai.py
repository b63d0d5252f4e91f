"""The openai package for Python: answers, streams and what they cost."""

import asyncio

import openai
import pytest

from clients import CHAT, TALE, openai_client


LIMIT = 12


def test_chat(gateway, upstream):
    reply = openai_client(gateway).chat.completions.create(
        model=upstream.model, **CHAT, max_tokens=LIMIT)

    assert reply.choices[0].message.content
    line = gateway.assert_counted(upstream.model, reply.usage.prompt_tokens,
                                  reply.usage.completion_tokens)
    assert line["finish_reason"] == reply.choices[0].finish_reason == "length"
    assert line["request_id"] == reply._request_id
    assert line["status"] == 200
    assert line["error"] == ""
    assert line["upstream_addr"] == upstream.address


def test_chat_async(gateway, upstream):
    async def ask_twice():
        async with openai_client(gateway, kind=openai.AsyncOpenAI) as client:
            return await asyncio.gather(*(client.chat.completions.create(
                model=upstream.model, **CHAT, max_tokens=LIMIT)
                for _ in range(2)))

    replies = asyncio.run(ask_twice())
    gateway.assert_counted(
        upstream.model, sum(r.usage.prompt_tokens for r in replies),
        sum(r.usage.completion_tokens for r in replies), count=2)


def test_stream_with_usage(gateway, upstream):
    chunks = list(openai_client(gateway).chat.completions.create(
        model=upstream.model, **CHAT, max_tokens=LIMIT,
        stream=True, stream_options={"include_usage": True}))

    reported = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(reported) == 1
    assert chunks[-1].usage is reported[0] and chunks[-1].choices == []
    assert reported[0].completion_tokens == LIMIT
    line = gateway.assert_counted(upstream.model, reported[0].prompt_tokens,
                                  reported[0].completion_tokens)
    assert line["finish_reason"] == "length"


def test_stream_without_usage(gateway, upstream):
    """The event that the gateway asked for does not reach the client."""
    client = openai_client(gateway)
    prompt = client.chat.completions.create(
        model=upstream.model, **CHAT,
        max_tokens=LIMIT).usage.prompt_tokens
    chunks = list(client.chat.completions.create(
        model=upstream.model, **CHAT, max_tokens=LIMIT,
        stream=True))

    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    gateway.assert_counted(upstream.model, 2 * prompt, 2 * LIMIT, count=2)


def test_stream_async(gateway, upstream):
    async def ask():
        async with openai_client(gateway, kind=openai.AsyncOpenAI) as client:
            stream = await client.chat.completions.create(
                model=upstream.model, **CHAT, max_tokens=LIMIT,
                stream=True, stream_options={"include_usage": True})
            return [chunk async for chunk in stream]

    usage = asyncio.run(ask())[-1].usage
    gateway.assert_counted(upstream.model, usage.prompt_tokens,
                           usage.completion_tokens)


def test_stream_times(gateway, upstream):
    """The first token is seen when it comes, not when the stream ends."""
    list(openai_client(gateway).chat.completions.create(
        model=upstream.model, **CHAT, max_tokens=60, stream=True))

    line, = gateway.wait_log()
    assert 0 < float(line["ttft"]) < line["request_time"]
    metrics = gateway.metrics()
    for name in ("time_to_first_token_seconds", "output_tokens_per_second",
                 "time_per_output_token_seconds", "upstream_connect_seconds",
                 "upstream_request_duration_seconds"):
        assert metrics.value(f"clawdbot_{name}_count",
                             model=upstream.model) == 1
        assert metrics.value(f"clawdbot_{name}_sum",
                             model=upstream.model) >= 0
    assert metrics.value("clawdbot_time_to_first_token_seconds_sum") < \
        metrics.value("clawdbot_http_request_duration_seconds_sum")


@pytest.mark.parametrize("stream", [False, True])
def test_completions(gateway, upstream, stream):
    reply = openai_client(gateway).completions.create(
        model=upstream.model, max_tokens=LIMIT, **TALE,
        **({"stream": True, "stream_options": {"include_usage": True}}
           if stream else {}))
    usage = list(reply)[-1].usage if stream else reply.usage

    assert usage.completion_tokens == LIMIT
    gateway.assert_counted(upstream.model, usage.prompt_tokens,
                           usage.completion_tokens)


def test_completions_stream_without_usage(gateway, upstream):
    chunks = list(openai_client(gateway).completions.create(
        model=upstream.model, max_tokens=LIMIT, **TALE,
        stream=True))

    assert all(chunk.choices for chunk in chunks)
    assert "".join(chunk.choices[0].text for chunk in chunks)
    line, = gateway.wait_log()
    assert int(line["completion_tokens"]) == LIMIT
    assert line["usage_source"] == "upstream"


def test_many_at_once(gateway, upstream):
    """Concurrent streams over both workers add up to the token."""
    async def ask():
        async with openai_client(gateway, kind=openai.AsyncOpenAI) as client:
            async def one(limit):
                stream = await client.chat.completions.create(
                    model=upstream.model, **CHAT, max_tokens=limit,
                    stream=True, stream_options={"include_usage": True})
                return [chunk async for chunk in stream][-1].usage
            return await asyncio.gather(*(one(n) for n in range(3, 13)))

    usages = asyncio.run(ask())
    assert [usage.completion_tokens for usage in usages] == list(range(3, 13))
    gateway.assert_counted(
        upstream.model, sum(usage.prompt_tokens for usage in usages),
        sum(usage.completion_tokens for usage in usages), count=10)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(ollama_gateway, ollama, encoding):
    reply = openai_client(ollama_gateway).embeddings.create(
        model=ollama.model, input=["a cat", "a dog and a horse"],
        encoding_format=encoding)

    assert len(reply.data) == 2
    ollama_gateway.assert_counted(ollama.model, reply.usage.prompt_tokens, 0)


def test_responses(ollama_gateway, ollama):
    reply = openai_client(ollama_gateway).responses.create(
        model=ollama.model, input="Say hello.", max_output_tokens=LIMIT)

    assert reply.output_text
    ollama_gateway.assert_counted(ollama.model, reply.usage.input_tokens,
                                  reply.usage.output_tokens)


def test_responses_stream(ollama_gateway, ollama):
    events = list(openai_client(ollama_gateway).responses.create(
        model=ollama.model, input="Say hello.", max_output_tokens=LIMIT,
        stream=True))

    assert events[-1].type == "response.completed"
    usage = events[-1].response.usage
    ollama_gateway.assert_counted(ollama.model, usage.input_tokens,
                                  usage.output_tokens)


def test_models(gateway, upstream):
    names = [model.id for model in openai_client(gateway).models.list()]

    assert upstream.model in names
    line, = gateway.wait_log()
    assert line["status"] == 200
    assert gateway.metrics().value("clawdbot_tokens_total") == 0


def test_tools_and_json(gateway, upstream):
    """A request with nested schemas passes unchanged and is counted."""
    reply = openai_client(gateway).chat.completions.create(
        model=upstream.model, **CHAT, max_tokens=40, seed=1,
        response_format={"type": "json_schema", "json_schema": {
            "name": "count", "schema": {
                "type": "object", "required": ["model"],
                "properties": {"model": {"type": "integer"}}}}})

    assert reply.choices[0].message.content.lstrip().startswith("{")
    gateway.assert_counted(upstream.model, reply.usage.prompt_tokens,
                           reply.usage.completion_tokens)
