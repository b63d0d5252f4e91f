"""The anthropic package for Python, with Ollama's /v1/messages."""

from clients import QUESTION, anthropic_client


LIMIT = 12


def test_messages(ollama_gateway, ollama):
    reply = anthropic_client(ollama_gateway).messages.create(
        model=ollama.model, max_tokens=LIMIT, messages=QUESTION)

    assert reply.content[0].text
    assert reply.stop_reason == "max_tokens"
    line = ollama_gateway.assert_counted(
        ollama.model, reply.usage.input_tokens, reply.usage.output_tokens)
    assert line["finish_reason"] == "max_tokens"
    assert line["request_id"] == reply._request_id


def test_messages_stream(ollama_gateway, ollama):
    with anthropic_client(ollama_gateway).messages.stream(
            model=ollama.model, max_tokens=LIMIT, messages=QUESTION) as stream:
        text = "".join(stream.text_stream)
        reply = stream.get_final_message()

    assert text
    assert reply.usage.output_tokens == LIMIT
    ollama_gateway.assert_counted(ollama.model, reply.usage.input_tokens,
                                  reply.usage.output_tokens)


def test_api_key_header(ollama_gateway, ollama):
    """Some releases send x-api-key, others Authorization."""
    client = anthropic_client(ollama_gateway)
    for headers in ({"x-api-key": client.api_key},
                    {"authorization": f"Bearer {client.api_key}"},
                    {"x-api-key": client.api_key,
                     "authorization": f"Bearer {client.api_key}"}):
        reply = client._client.post(
            f"{ollama_gateway.url}/v1/messages", headers=headers,
            json={"model": ollama.model, "max_tokens": 1,
                  "messages": QUESTION})
        assert reply.status_code == 200, headers
