#!/usr/bin/env python3
"""Asks a model one question through the gateway, and looks whether Prometheus
has the same: one request, the tokens of the answer, and its latency.

    python3 test_qwen3_monitor.py [--model MODEL] [--prompt TEXT]

The token comes from the variable CLAWDBOT_TOKEN, or from docker/secrets.  Needs
Python 3.9 or newer and nothing else.  Ends with 0 when all of it agrees.
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

SECRET = pathlib.Path(__file__).resolve().parent.parent \
    / "secrets/clawdbot_token"

REQUESTS = "clawdbot_model_request_total"
TOKENS = "clawdbot_tokens_total"
LATENCY = "clawdbot_http_request_duration_seconds"

# Of the answer: enough for a sentence, and soon over on a laptop.
MAX_TOKENS = 256

# Seconds.  The gateway sees less of a request than we do: no connecting, no
# start of our own.
SLACK = 1

CURES = {
    401: "is the token that of docker/secrets/clawdbot_token?",
    404: "is the model there?  docker compose exec ollama ollama pull MODEL",
    429: "the user's quota is used up: GET /v1/usage tells which",
    502: "is Ollama running?  docker compose ps ollama",
    503: "does the gateway have its Redis?  docker compose ps redis",
    504: "the model did not answer in time: docker compose logs ollama",
}


class Failed(Exception):
    """With a sentence for the user."""


def fetch(url, timeout, body=None, **headers):
    """(status, document) of an answer, whatever its status."""
    try:
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            status, body = reply.status, reply.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Failed(f"no answer from {url}: "
                     f"{getattr(error, 'reason', error)}") from None
    try:
        return status, json.loads(body)
    except ValueError:
        return status, {}


def label(model):
    """The model's name in the metrics: many spellings reach the same one."""
    name = re.sub(r"^[^/:]+://", "", model.strip().lower())
    name = re.sub(r"^registry\.ollama\.ai/", "", name)
    name = re.sub(r"^library/([^/]+)$", r"\1", name)
    return re.sub(r":(latest|local)$", "", name)


class Prometheus:
    """What it has of one model, of all gateways together."""

    def __init__(self, url, model):
        self.url = url.rstrip("/")
        self.model = json.dumps(label(model))

    def query(self, text):
        """[(labels, value)] of an instant query."""
        status, document = fetch(
            f"{self.url}/api/v1/query?"
            + urllib.parse.urlencode({"query": text}), 10)
        if status != 200 or document.get("status") != "success":
            raise Failed(f"{self.url} answers with {status}: is that"
                         " Prometheus?")
        return [(item["metric"], float(item["value"][1]))
                for item in document["data"]["result"]]

    def total(self, name):
        return sum(value for _, value in self.query(
            f"sum({name}{{model={self.model}}})"))

    def totals(self, name, label):
        """{value of the label: sum}"""
        return {labels[label]: value for labels, value in self.query(
            f"sum by ({label}) ({name}{{model={self.model}}})")}

    def look(self):
        tokens = self.totals(TOKENS, "type")
        return {"requests": self.total(REQUESTS),
                "tokens in": tokens.get("prompt", 0),
                "tokens out": tokens.get("completion", 0),
                "seconds": self.total(f"{LATENCY}_sum"),
                "buckets": self.totals(f"{LATENCY}_bucket", "le")}

    def now(self):
        """By its own clock."""
        return self.query("vector(time())")[0][1]

    def scraped(self):
        """When it has looked at all gateways, by the same."""
        times = [value for _, value in self.query(
            'timestamp(up{job="clawdbot"}) and up{job="clawdbot"} == 1')]
        if not times:
            raise Failed(f"{self.url} has no gateway that is up in the job"
                         f" clawdbot: {self.url}/targets says why")
        return min(times)


def ask(options, secret):
    """(seconds, answer) of the question."""
    body = {"model": options.model, "max_tokens": MAX_TOKENS,
            "messages": [{"role": "user", "content": options.prompt}]}

    start = time.monotonic()
    status, answer = fetch(
        f"{options.gateway.rstrip('/')}/v1/chat/completions", options.timeout,
        json.dumps(body).encode(), Authorization=f"Bearer {secret}",
        **{"Content-Type": "application/json"})
    seconds = time.monotonic() - start

    print(f"status       {status}\ntotal time   {seconds:.2f} s")
    if status != 200:
        error = answer.get("error", {})
        said = error.get("message", "") if isinstance(error, dict) else error
        raise Failed(f"{said or 'no answer'} ({CURES.get(status, status)})")
    return seconds, answer


def token():
    found = os.environ.get("CLAWDBOT_TOKEN", "")
    try:
        found = (found or SECRET.read_text()).strip()
    except OSError:
        raise Failed(f"set CLAWDBOT_TOKEN: there is no {SECRET}") from None
    if not re.fullmatch("[!-~]+", found):
        raise Failed("the token has characters that no token has")
    return found


def look_again(prometheus, patience, enough=lambda seen: True):
    """What it has once it has looked at all that is over by now."""
    over = prometheus.now()
    end = time.monotonic() + patience
    print(f"waiting for Prometheus to look ({patience:g} s at most)",
          flush=True)
    while True:
        looked = prometheus.scraped() > over
        seen = prometheus.look()
        if looked and enough(seen):
            return seen
        if time.monotonic() > end:
            raise Failed("Prometheus has seen no request of that model: does"
                         " it look at the gateway that was asked?" if looked
                         else "Prometheus has not looked in that time")
        time.sleep(0.5)


def bucket(before, after):
    """(lower, upper) bound of the one that has grown."""
    lower = 0
    for upper in sorted(after, key=float):
        if after[upper] > before.get(upper, 0):
            return lower, float(upper)
        lower = float(upper)
    raise Failed("Prometheus has no bucket of that model's latency")


def compare(before, after, seconds, usage):
    """Prints what Prometheus has.  Returns whether it is the same."""
    grown = {name: after[name] - before[name]
             for name in before if name != "buckets"}
    lower, upper = bucket(before["buckets"], after["buckets"])
    latency = grown["seconds"]

    expected = {"requests": 1}
    if usage:
        expected.update({"tokens in": usage["prompt_tokens"],
                         "tokens out": usage["completion_tokens"]})
    same = True
    for name, value in expected.items():
        right = grown[name] == value
        same = same and right
        print(f"{name:12} {grown[name]:+g}, "
              + ("as it was" if right else f"and it was {value}"))

    right = lower <= latency <= upper and abs(seconds - latency) <= SLACK
    print(f"latency      {latency:.2f} s, in the bucket {lower:g} to {upper:g}"
          f" s, " + ("as it was" if right else f"and it was {seconds:.2f} s"))
    if grown["requests"] > 1:
        raise Failed("others asked that model meanwhile: try again when it is"
                     " quiet")
    return same and right


def check(options):
    secret = token()
    prometheus = Prometheus(options.prometheus, options.model)
    # What others asked a moment ago is not taken for this question.
    before = look_again(prometheus, options.patience)

    print(f"model        {options.model}")
    seconds, answer = ask(options, secret)
    # A model that thinks may get no further in so many tokens.
    message = answer["choices"][0]["message"]
    text = (message.get("reasoning") or "") + (message.get("content") or "")
    usage = answer.get("usage")
    print(f"characters   {len(text)}")

    after = look_again(prometheus, options.patience, lambda seen:
                       seen["requests"] > before["requests"])
    if not compare(before, after, seconds, usage):
        raise Failed("Prometheus has something else")
    print("Prometheus has the same")


def main():
    parser = argparse.ArgumentParser(
        description="Asks one question and looks whether Prometheus saw it.")
    parser.add_argument("--model", default="qwen3:32b")
    parser.add_argument("--prompt", default="Why is the sky blue?")
    parser.add_argument("--gateway", metavar="URL",
                        default="http://localhost:8080")
    parser.add_argument("--prometheus", metavar="URL",
                        default="http://localhost:9090")
    parser.add_argument("--timeout", metavar="SECONDS", type=float,
                        default=600, help="for the answer")
    parser.add_argument("--patience", metavar="SECONDS", type=float,
                        default=60, help="for Prometheus to look")
    options = parser.parse_args()
    try:
        check(options)
    except Failed as failed:
        sys.exit(f"FAILED: {failed}")
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        sys.exit(f"FAILED: an answer of another form than expected: {error!r}")


if __name__ == "__main__":
    main()
