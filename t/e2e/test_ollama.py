"""The ollama package for Python."""

import asyncio

import ollama as ollama_package
import pytest

from clients import QUESTION, STORY, ollama_client
from harness import ADMIN_TOKEN


OPTIONS = {"num_predict": 12, "temperature": 0}


def test_chat(ollama_gateway, ollama):
    reply = ollama_client(ollama_gateway).chat(
        model=ollama.model, messages=QUESTION, options=OPTIONS)

    assert reply.message.content
    line = ollama_gateway.assert_counted(
        ollama.model, reply.prompt_eval_count, reply.eval_count)
    assert line["finish_reason"] == reply.done_reason == "length"


def test_chat_stream(ollama_gateway, ollama):
    parts = list(ollama_client(ollama_gateway).chat(
        model=ollama.model, messages=QUESTION, options=OPTIONS, stream=True))

    assert len(parts) > 2 and parts[-1].done
    ollama_gateway.assert_counted(
        ollama.model, parts[-1].prompt_eval_count, parts[-1].eval_count)


def test_chat_stream_async(ollama_gateway, ollama):
    async def ask():
        client = ollama_client(ollama_gateway,
                               kind=ollama_package.AsyncClient)
        return [part async for part in await client.chat(
            model=ollama.model, messages=QUESTION, options=OPTIONS,
            stream=True)]

    last = asyncio.run(ask())[-1]
    ollama_gateway.assert_counted(ollama.model, last.prompt_eval_count,
                                  last.eval_count)


@pytest.mark.parametrize("stream", [False, True])
def test_generate(ollama_gateway, ollama, stream):
    reply = ollama_client(ollama_gateway).generate(
        model=ollama.model, prompt=STORY, options=OPTIONS,
        stream=stream)
    last = list(reply)[-1] if stream else reply

    assert last.done and last.eval_count == 12
    ollama_gateway.assert_counted(ollama.model, last.prompt_eval_count,
                                  last.eval_count)


def test_embed(ollama_gateway, ollama):
    reply = ollama_client(ollama_gateway).embed(
        model=ollama.model, input=["a cat", "a dog and a horse"])

    assert len(reply.embeddings) == 2
    ollama_gateway.assert_counted(ollama.model, reply.prompt_eval_count, 0)


def test_names(ollama_gateway, ollama):
    """All spellings of a name are one model on the metrics."""
    client = ollama_client(ollama_gateway)
    names = ("smollm2:135m", "SmolLM2:135M", "library/smollm2:135m",
             "registry.ollama.ai/library/smollm2:135m", " smollm2:135m ")
    replies = [client.generate(model=name, prompt="Hi", options=OPTIONS)
               for name in names]

    ollama_gateway.assert_counted(
        ollama.model, sum(reply.prompt_eval_count for reply in replies),
        sum(reply.eval_count for reply in replies), count=len(names))


def test_lists(ollama_gateway, ollama):
    client = ollama_client(ollama_gateway)

    assert {model.model for model in client.list().models} >= {
        ollama.model, ollama.other_model}
    client.ps()
    assert ollama_gateway.metrics().value("clawdbot_tokens_total") == 0


def test_admin(ollama_gateway, ollama):
    """An administrator manages models through the gateway."""
    client = ollama_client(ollama_gateway, ADMIN_TOKEN)

    assert client.show(ollama.model).modelinfo
    client.copy(ollama.model, "e2e-copy")
    assert "e2e-copy:latest" in {m.model for m in client.list().models}
    client.delete("e2e-copy")
    assert "e2e-copy:latest" not in {m.model for m in client.list().models}
    assert client.create("e2e-made", from_=ollama.model).status == "success"
    client.delete("e2e-made")
