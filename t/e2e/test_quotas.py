"""Quotas as users of the real clients meet them, with a real Redis."""

import anthropic
import httpx
import ollama as ollama_package
import openai
import pytest

from clients import (CHAT, ENDLESS, QUESTION, anthropic_client, bearer,
                     ollama_client, openai_client)
from harness import wait_until


@pytest.fixture
def quota_gateway(start_gateway, ollama, redis):
    """quota_gateway(NAME=VALUE, ...): alice's limits."""

    def start(**limits):
        if limits:
            redis("HSET", "clawd:user:alice",
                  *(word for pair in limits.items() for word in pair))
        gateway = start_gateway(ollama,
                                http=f"clawd_redis unix:{redis.socket};")
        wait_until("the link to Redis", lambda: httpx.get(
            f"{gateway.url}/v1/usage", headers=bearer()).status_code == 200)
        gateway.skipped = len(gateway.log())
        return gateway

    return start


def usage(gateway):
    reply = httpx.get(f"{gateway.url}/v1/usage", headers=bearer())
    assert reply.status_code == 200
    return {limit["name"]: limit for limit in reply.json()["limits"]}


def used(gateway, name="tokens_per_day"):
    return usage(gateway)[name]["used"]


def settled(gateway, tokens):
    wait_until(f"{tokens} tokens to be used",
               lambda: used(gateway) == tokens)


def generations(gateway):
    return [line for line in gateway.log()[gateway.skipped:]
            if line["uri"] != "/v1/usage"]


def test_every_client_is_charged_what_it_was_told(quota_gateway, ollama,
                                                  redis):
    gateway = quota_gateway(tokens_per_day=100000, concurrency=4)
    total = 0

    reply = openai_client(gateway).chat.completions.create(
        model=ollama.model, max_tokens=8, **CHAT)
    total += reply.usage.total_tokens
    settled(gateway, total)

    *_, last = openai_client(gateway).chat.completions.create(
        model=ollama.model, max_tokens=8, stream=True,
        stream_options={"include_usage": True}, **CHAT)
    total += last.usage.total_tokens
    settled(gateway, total)

    reply = anthropic_client(gateway).messages.create(
        model=ollama.model, max_tokens=8, messages=QUESTION)
    total += reply.usage.input_tokens + reply.usage.output_tokens
    settled(gateway, total)

    for reply in ollama_client(gateway).chat(
            model=ollama.model, messages=QUESTION, stream=True,
            options={"num_predict": 8}):
        pass
    total += reply.prompt_eval_count + reply.eval_count
    settled(gateway, total)

    assert redis("HGET", "clawd:{alice}:u:alice", "du") == str(total)
    assert redis("ZCARD", "clawd:{alice}:f:alice") == "0"
    assert gateway.metrics().value(
        "clawdbot_quota_underestimate_tokens_total") == 0


def test_two_gateways_share_one_limit(quota_gateway, ollama):
    one = quota_gateway(tokens_per_day=100000)
    two = quota_gateway()

    openai_client(one).chat.completions.create(model=ollama.model,
                                               max_tokens=8, **CHAT)
    wait_until("the first to settle", lambda: 0 < used(one) < 200)
    assert used(two) == used(one)


def test_used_up(quota_gateway, ollama, redis):
    """The clients' own classes; none of them tries again on its own."""

    gateway = quota_gateway(tokens_per_day=1000)
    reply = openai_client(gateway).chat.completions.create(
        model=ollama.model, max_tokens=200, **CHAT)
    settled(gateway, reply.usage.total_tokens)

    redis("HSET", "clawd:user:alice", "tokens_per_day", used(gateway) + 250)
    wait_until("the new limit", lambda: usage(gateway)["tokens_per_day"][
        "limit"] != 1000)
    before = len(generations(gateway))

    with pytest.raises(openai.RateLimitError) as caught:
        openai_client(gateway).with_options(
            max_retries=2).chat.completions.create(
                model=ollama.model, max_tokens=100, **CHAT)

    error = caught.value
    assert error.code == "insufficient_quota"
    assert error.message.find("daily tokens: ") >= 0
    assert error.response.headers["x-should-retry"] == "false"
    assert int(error.response.headers["retry-after"]) > 0
    assert int(error.response.headers["x-ratelimit-limit-tokens"]) > 0

    with pytest.raises(anthropic.RateLimitError) as caught:
        anthropic_client(gateway).with_options(max_retries=2).messages.create(
            model=ollama.model, max_tokens=100, messages=QUESTION)

    assert caught.value.body["error"]["type"] == "rate_limit_error"

    with pytest.raises(ollama_package.ResponseError) as caught:
        ollama_client(gateway).chat(model=ollama.model, messages=QUESTION,
                                    options={"num_predict": 100})

    assert caught.value.status_code == 429
    assert "daily tokens: " in str(caught.value)

    lines = wait_until("three lines", lambda: [
        line for line in generations(gateway)[before:]
        if line["status"] == 429][2:] and generations(gateway)[before:])
    assert [line["error"] for line in lines] == ["tokens_per_day"] * 3
    assert [line["upstream_addr"] for line in lines] == [""] * 3


def test_an_answer_without_a_limit_reserves_one(quota_gateway, ollama):
    """A quarter of the smallest limit; the prompt is some hundred bytes."""

    gateway = quota_gateway(tokens_per_day=8000)

    stream = openai_client(gateway).chat.completions.create(
        model=ollama.model, stream=True, **CHAT)
    next(stream)

    assert 2000 < used(gateway) < 2500
    stream.close()
    wait_until("the rest to be free", lambda: used(gateway) < 2000)


def test_leaving_early_frees_the_rest(quota_gateway, ollama, redis):
    gateway = quota_gateway(tokens_per_day=100000, concurrency=1)

    stream = openai_client(gateway).chat.completions.create(
        model=ollama.model, max_tokens=ENDLESS, stream=True, **CHAT)
    for _ in range(3):
        next(stream)
    assert used(gateway) > ENDLESS
    assert usage(gateway)["concurrency"]["used"] == 1

    with pytest.raises(openai.RateLimitError, match="concurrent requests"):
        openai_client(gateway).chat.completions.create(
            model=ollama.model, max_tokens=8, **CHAT)

    stream.close()

    wait_until("the place to be free",
               lambda: usage(gateway)["concurrency"]["used"] == 0)
    assert 0 < used(gateway) < ENDLESS
    assert redis("ZCARD", "clawd:{alice}:f:alice") == "0"
