"""Two gateways under known traffic, and a Prometheus that watches them.

The tests of dashboards and of the metrics reference compare with it.
"""

import concurrent.futures
import hashlib
import http.server
import json
import threading
import time

import httpx
import pytest

from harness import USER_TOKEN, Gateway, Redis, wait_until
from servers import Prometheus

MODEL = "qwen3:32b"
ANSWERS = (20, 20, 19)      # tokens of the three answers
PROMPT = 9                  # tokens of each prompt
SECONDS = 1.09              # that each of them takes

EARLIER = 4                 # tokens of an answer before all that

TOKENS = len(ANSWERS) * PROMPT + sum(ANSWERS)
assert TOKENS == 86

OTHER_MODEL = "llama3.2"
BOB = "bob+ci@example.org"
BOB_TOKEN = "stack-bob-token-0123456789abcdef"
CAROL_TOKEN = "stack-carol-token-0123456789abcdef"

# what Grafana would make of its macros at a scrape interval of a second
WINDOW = 4
RANGE = 60

# two users whose limits are met: one is refused, the other only counted
QUOTAS = f"""
    clawd_token {BOB_TOKEN} user={BOB} plan=small;
    clawd_quota default tokens_per_day=1000000 concurrency=8 rpm=600;
    clawd_quota small rpm=1 tokens_per_month=1000000;
"""

SERVER = """
    location /api/generate {
        proxy_read_timeout 500ms;
        clawd_pass http://model;
    }
    location /api/chat {
        clawd_dry_run on;
        clawd_pass http://model;
    }
"""

PROMETHEUS = """
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files: [rules.yml]
scrape_configs:
- job_name: clawdbot
  static_configs:
  - targets: [{targets}]
"""

RULES = """
groups:
- name: test
  rules:
  - alert: Always
    expr: vector(1)
    labels: {severity: info}
"""


class Upstream(http.server.ThreadingHTTPServer):
    """Answers as Ollama does, with as many tokens as the prompt's last word.

    "fail" is a 500; "hang" is no answer before the server is closed; "wait" is
    one of three tokens, once "go" is set.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.address = f"127.0.0.1:{self.server_port}"
        self.over = threading.Event()
        self.go = threading.Event()
        self.waiting = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.over.set()
        self.go.set()
        self.shutdown()
        self.server_close()


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(
            self.rfile.read(int(self.headers["Content-Length"])))
        text = (request.get("prompt")
                or request["messages"][-1]["content"]).split()[-1]

        if text == "wait":
            self.server.waiting += 1
            self.server.go.wait(60)
            text = "3"

        if text == "hang":
            self.server.over.wait()
            self.close_connection = True
        elif text == "fail":
            self.whole(500, {"error": "model runner has stopped"})
        elif request.get("stream"):
            self.stream(request["model"], int(text))
        elif self.path == "/api/chat":
            self.whole(200, native(request["model"], int(text)))
        else:
            self.whole(200, chat(request["model"], "message", "An answer",
                                 int(text)))

    def whole(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, model, tokens):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(tokens):
            time.sleep(SECONDS / tokens)
            self.event(chat(model, "delta", " word"))
        self.event({**chat(model, "delta", "", tokens), "usage": None})
        self.event({**chat(model, "delta", "", tokens), "choices": []})
        self.piece(b"data: [DONE]\n\n")
        self.piece(b"")

    def event(self, value):
        self.piece(b"data: " + json.dumps(value).encode() + b"\n\n")

    def piece(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *args):
        pass


def chat(model, key, text, tokens=None):
    """An answer or an event of it; with the tokens, the last one."""
    answer = {
        "id": "chatcmpl-427", "created": 1795386600, "model": model,
        "object": "chat.completion" + (".chunk" if key == "delta" else ""),
        "choices": [{"index": 0,
                     key: {"role": "assistant", "content": text},
                     "finish_reason": "stop" if tokens else None}]}
    if tokens:
        answer["usage"] = {"prompt_tokens": PROMPT,
                           "completion_tokens": tokens,
                           "total_tokens": PROMPT + tokens}
    return answer


def native(model, tokens):
    return {"model": model, "created_at": "2026-11-22T22:30:00.410123457Z",
            "message": {"role": "assistant", "content": "An answer"},
            "done": True, "done_reason": "stop", "total_duration": 1800000,
            "prompt_eval_count": PROMPT, "eval_count": tokens}


class Watched:
    """The gateways, their Prometheus, and the time of the last look."""

    def __init__(self, folder):
        self.folder = folder
        self.servers = []
        self.upstream = Upstream()

    def start(self, kind, name, *args, **options):
        folder = self.folder / name
        folder.mkdir()
        server = kind(folder, *args, **options)
        self.servers.append(server)
        return server

    def stop(self):
        self.upstream.close()
        for server in reversed(self.servers):
            server.stop()

    def begin(self):
        self.redis = self.start(Redis, "redis")
        self.redis("HSET", "clawd:user:carol", "tokens_per_day", 50000,
                   "tokens_per_month", "unlimited", "rpm", 100)
        for token, user in ((CAROL_TOKEN, "carol"), ("mistaken", "dave")):
            digest = hashlib.sha256(token.encode()).hexdigest()
            self.redis("HSET", f"clawd:key:{digest}", "user", user)
        self.redis("HSET", "clawd:user:dave", "rpm", "many")

        self.gateway = self.start(Gateway, "zone", self.upstream.address,
                                  SERVER, QUOTAS)
        self.shared = self.start(Gateway, "shared", self.upstream.address,
                                 http=f"clawd_redis unix:{self.redis.socket};")
        wait_until("the link to Redis", lambda: self.shared.metrics().value(
            "clawdbot_redis_up") == 1)

        # before anybody looks: rates need series that are there already
        for gateway, token in ((self.gateway, USER_TOKEN),
                               (self.shared, CAROL_TOKEN)):
            self.ask(gateway, str(EARLIER), token, stream=True)

        conf = self.folder / "prometheus.yml"
        conf.write_text(PROMETHEUS.format(targets=", ".join(
            f'"127.0.0.1:{gateway.metrics_port}"'
            for gateway in (self.gateway, self.shared))))
        (self.folder / "rules.yml").write_text(RULES)
        self.prometheus = self.start(Prometheus, "prometheus", conf,
                                     "--enable-feature=exemplar-storage")

        # who was watched for a window can be seen to get a series
        wait_until("both gateways to be watched", lambda: [
            value for _, value in self.prometheus.query(
                "count_over_time(clawdbot_zone_size_bytes[1m])")
            if value > WINDOW + 2][1:])

    def ask(self, gateway, text, token=USER_TOKEN, model=OTHER_MODEL,
            path="/v1/chat/completions", status=200, **fields):
        body = {"model": model, **fields}
        if path == "/api/generate":
            body["prompt"] = text
        else:
            body["messages"] = [{"role": "user", "content": text}]
        reply = httpx.post(gateway.url + path, json=body, timeout=30,
                           headers={"Authorization": f"Bearer {token}"})
        assert reply.status_code == status, reply.text

    def run(self):
        plain, shared = self.gateway, self.shared

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            jobs = [
                *(pool.submit(self.ask, plain, str(tokens), model=MODEL,
                              stream=True) for tokens in ANSWERS),
                pool.submit(self.ask, plain, "hang", path="/api/generate",
                            model=MODEL + "-slow", status=504),
                pool.submit(self.ask, shared, "7", CAROL_TOKEN, stream=True),
            ]
            self.ask(plain, "5", BOB_TOKEN)
            self.ask(plain, "5", BOB_TOKEN, status=429)
            self.ask(plain, "5", BOB_TOKEN, path="/api/chat")
            self.ask(plain, "fail", status=500)
            self.ask(plain, "5", "wrong", status=401)
            self.ask(shared, "5", "mistaken", status=401)
            self.ask(shared, "6", CAROL_TOKEN)
            for job in jobs:
                job.result()

        for gateway in (plain, shared):
            wait_until("all requests to be counted",
                       lambda g=gateway: not g.metrics().value(
                           "clawdbot_requests_in_flight"))

        scraped = time.time()
        wait_until("a scrape of both behind that", lambda: [
            value for _, value in self.prometheus.query(
                "timestamp(clawdbot_zone_size_bytes)")
            if value > scraped][1:])
        self.at = time.time()

    def query(self, text):
        """As of the end of the traffic: [(labels, value)]."""
        return [(item["metric"], float(item["value"][1]))
                for item in self.prometheus.get(
                    "query", query=text, time=self.at)["result"]]

    def over_time(self, text):
        """In steps of a second until then: [(labels, [value])]."""
        result = self.prometheus.get("query_range", query=text, step=1,
                                     start=self.at - RANGE, end=self.at)
        return [(item["metric"], [float(value) for _, value in item["values"]])
                for item in result["result"]]


@pytest.fixture(scope="session")
def watched(tmp_path_factory):
    watched = Watched(tmp_path_factory.mktemp("watched"))
    try:
        watched.begin()
        watched.run()
        yield watched
    finally:
        watched.stop()
