"""The real Python clients, pointed at a gateway, and what they are asked."""

import anthropic
import ollama
import openai

from harness import PATIENCE, USER_TOKEN


# The small model goes on with these for hundreds of tokens: answers end where
# they are told to, and long ones can be interrupted.  TALE is for text that is
# completed as it is, without a chat around it.
STORY = "Tell a very long story of a dragon."
QUESTION = [{"role": "user", "content": STORY}]
CHAT = {"messages": QUESTION, "temperature": 0}
TALE = {"prompt": "Once upon a time there was a dragon", "temperature": 0}
ENDLESS = 1500


def openai_client(gateway, token=USER_TOKEN, kind=openai.OpenAI):
    return kind(base_url=f"{gateway.url}/v1", api_key=token, max_retries=0,
                timeout=PATIENCE)


def anthropic_client(gateway, token=USER_TOKEN):
    return anthropic.Anthropic(base_url=gateway.url, api_key=token,
                               max_retries=0, timeout=PATIENCE)


def ollama_client(gateway, token=USER_TOKEN, kind=ollama.Client):
    return kind(host=gateway.url, timeout=PATIENCE,
                headers={"Authorization": f"Bearer {token}"})


def bearer(token=USER_TOKEN):
    return {"Authorization": f"Bearer {token}"}
