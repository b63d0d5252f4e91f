"""One hostile case: what a client sends and what the upstream answers.

A case is a function of the seed and its number alone.  It travels with its
number, in a header of the request, so that the upstream knows what to answer
and so that no byte of one case can be taken for a byte of another: both sides
write the mark of the case into what they send.
"""

import random
import re
from pathlib import Path

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
LARGEST = 20000

TOKEN = b"hostile-token-4e1f"
COOKIE = b"hostile-cookie-90ab"
SECRETS = (TOKEN, COOKIE)

MARK = re.compile(rb"@@(\d{7})@@")

# A server of the configuration each, picked by the Host header.

SERVERS = ["plain", "capped", "cors", "tokenarg", "small", "cached", "paged",
           "gzipped", "filed", "limited", "wild"]

POSTED = ["/v1/chat/completions", "/v1/completions", "/v1/responses",
          "/v1/messages", "/api/chat", "/api/generate", "/v1/embeddings",
          "/api/embed"]
LISTED = ["/v1/models", "/api/tags", "/api/ps", "/api/version", "/"]
CONFUSED = ["/v1/../api/delete", "//api//pull", "/api%2Fdelete", "/api/pull",
            "/%61pi/push", "/v1/chat/completions/", "/API/chat",
            "/api/tags%00", "/api/chat;x", "/api/%252e%252e/delete",
            "http://other/api/create", "/v1/files", "*", "/v1/models?token=",
            "/api/blobs/sha256:0", "/v1/chat/completions%0d%0aX-A:%20b"]

BODIES = [
    b'{"model":"llama3.2","messages":[{"role":"user","content":"MARK"}],'
    b'"stream":true}',
    b'{"model":"x","prompt":"MARK","stream":true,'
    b'"stream_options":{"include_usage":false}}',
    b'{"model":"M:latest","input":"MARK","max_tokens":-1,'
    b'"options":{"num_ctx":4,"num_predict":0},"keep_alive":0}',
    b'{"stream":true,"stream_options":null,"prompt":"MARK",'
    b'"model":"registry.ollama.ai/library/l","max_completion_tokens":5,'
    b'"n_predict":99999}',
    b'{"model":"x\\r\\nX-Injected: 1","messages":["MARK"],"stream":false}',
    b'{"model":"a\\u0000b","stream":true,"prompt":"MARK"}',
    b'{"model":"x\\"} 1\\nfake 9","stream":true,"prompt":"MARK"}',
    b'{"model":"a","m\\u006fdel":"b","prompt":"MARK"}',
    b'{"model":"a","MODEL":"b","prompt":"MARK"}',
    b'{"model":"a","\xc5\xbftream":true,"stream":false,"prompt":"MARK"}',
]

EXTRA_HEADERS = [
    b"Origin: https://app.example", b"Origin: https://evil.example",
    b"x-request-id: abc", b"Connection: close, x-foo",
    b"Content-Encoding: identity", b"Content-Encoding: gzip",
    b"x-api-key: " + TOKEN, b"Cookie: session=" + COOKIE,
    b"Expect: 100-continue", b"Upgrade: websocket", b"Range: bytes=2-5",
    b"If-None-Match: \"x\"", b"Accept-Encoding: gzip",
    b"X-HTTP-Method-Override: DELETE", b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked", b"Content-Length: +5",
    b"Content-Length: 3", b" folded: line", b"X-Big: " + b"a" * 9000,
]

PIECES = [
    b"\n\n", b"\r\n", b"\r", b"data: ", b"data: [DONE]\n\n", b"\x00",
    b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}',
    b'"usage":{', b"[[" * 200, b'{"a":' * 600, b'"error":{"message":"x"}',
    b"null", b"-1", b"1e999", b"\\ud800", b'"model":""', b"\xef\xbb\xbf",
    b"0\r\n\r\n", b'"finish_reason":"x\\r\\nA: b"', b"event: error\n",
]

ANSWER_HEADERS = [
    b"x-request-id: up", b"Cache-Control: max-age=3", b"Retry-After: 0",
    b"Location: /x", b'ETag: "x"', b"X-Accel-Redirect: /page",
    b"X-Accel-Limit-Rate: 1", b"Connection: close", b"Upgrade: h2c",
    b"WWW-Authenticate: Basic", b"Access-Control-Allow-Origin: *",
    b"Trailer: x", b"Set-Cookie: a=b", b"Content-Range: bytes 0-1/2",
    b"Keep-Alive: timeout=1", b"X-Control: a\x01b", b"X-Long: " + b"a" * 700,
    b"Content-Encoding: gzip", b"Content-Encoding: br",
    b"Content-Encoding: deflate",
]

TYPES = [b"text/event-stream", b"application/x-ndjson", b"application/json",
         b"text/html", b"text/event-stream; charset=utf-8", b""]

STATUSES = [200] * 16 + [101, 204, 206, 301, 302, 304, 400, 401, 403, 404,
                         408, 409, 413, 429, 499, 500, 502, 503, 504, 599,
                         600, 999]


def fixtures():
    """(content type, head and body, body) of each small fixture."""

    found = []

    for path in sorted(FIXTURES.rglob("*.http")):
        if path.stat().st_size > LARGEST:
            continue

        raw = path.read_bytes()
        head = raw.partition(b"\r\n\r\n")[0]
        kind = re.search(rb"(?im)^content-type: *([^\r\n]*)", head)
        found.append((kind.group(1) if kind else b"application/json", raw,
                      path.with_suffix(".body").read_bytes()))

    return found


def mutated(rng, data):
    """The data with up to six faults in it."""

    data = bytearray(data)

    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(data))
        fault = rng.randrange(6)

        if fault == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif fault == 1:
            del data[at:at + rng.randint(1, 40)]
        elif fault == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 20))
        elif fault == 3:
            start = rng.randint(0, len(data))
            data[at:at] = data[start:start + rng.randint(1, 300)]
        elif fault == 4:
            data[at:at] = rng.choice(PIECES)
        elif rng.random() < 0.3:
            del data[at:]

    return bytes(data)


def chunked(rng, data):
    """The data in chunks of random sizes, without the last one."""

    out = bytearray()
    largest = rng.choice([3, 50, 2000])
    at = 0

    while at < len(data):
        piece = data[at:at + rng.randint(1, largest)]
        at += len(piece)
        out += b"%x\r\n%s\r\n" % (len(piece), piece)

    return bytes(out)


class Case:
    """The request of a case and how its client behaves."""

    def __init__(self, seed, number):
        rng = random.Random(f"request {seed} {number}")

        self.number = number
        self.mark = b"@@%07d@@" % number
        self.server = rng.choice(SERVERS)
        self.copies = rng.choice([1, 1, 1, 1, 2, 3])
        self.method = b"POST"

        one = self.request(rng)

        # With a length that is not its body's, a request swallows a part of
        # the next: what follows is no copy of it.

        if b"Content-Length: 3\r\n" in one:
            self.copies = 1

        last = closing(one)

        # Faults in the bytes of a request: what it says is then anyone's
        # guess, so they must not carry a secret to where it is no secret, nor
        # the mark of another case.

        self.broken = rng.random() < 0.12
        self.raw = one * (self.copies - 1) + last

        if self.broken:
            self.copies = 1
            self.raw = last

            for _ in range(8):
                raw = mutated(rng, last)
                if not spoilt(raw, self.mark):
                    self.raw = raw
                    break

        self.step = rng.choice([1 << 20, 1 << 20, 1000, 60])
        self.abort = rng.random() < 0.12
        self.abort_at = rng.randint(0, len(self.raw))
        self.abort_after = rng.random() * 0.02

    def request(self, rng):
        kind = rng.random()
        body = b""

        if kind < 0.85:
            path = rng.choice(POSTED)
            body = rng.choice(BODIES[:4] * 4 + BODIES[4:])
            body = body.replace(b"MARK", self.mark)
            if rng.random() < 0.25:
                body = mutated(rng, body)
            elif rng.random() < 0.05:
                body = body.replace(self.mark, self.mark + b"a" * 100000)
            if any(secret in body for secret in SECRETS):
                body = b""

        elif kind < 0.95:
            path = rng.choice(LISTED)
            self.method = rng.choice([b"GET", b"HEAD", b"POST", b"OPTIONS"])

        else:
            path = rng.choice(CONFUSED)
            self.method = rng.choice([b"GET", b"POST", b"DELETE", b"TRACE"])

        target = path.encode()
        if rng.random() < 0.1:
            target += rng.choice([b"?a=b", b"?token=x&b", b"?api_key=x"])

        self.http10 = rng.random() < 0.05
        head = [b"%s %s HTTP/1.%d" % (self.method, target, not self.http10),
                b"Host: " + self.server.encode(), b"X-Case: " + self.mark]

        # Only this server blanks tokens in arguments, and only once it has
        # understood the whole head.

        if self.server == "tokenarg" and b"?" not in target \
                and target.startswith(b"/") and rng.random() < 0.5:
            head[0] = head[0].replace(target, target + b"?token=" + TOKEN, 1)
        else:
            if rng.random() < 0.95:
                head.append(b"Authorization: Bearer " + TOKEN)
            for _ in range(rng.choice([0, 0, 0, 0, 0, 1, 1, 3])):
                head.append(rng.choice(EXTRA_HEADERS))

        if body and rng.random() < 0.2:
            head.append(b"Transfer-Encoding: chunked")
            body = chunked(rng, body) + b"0\r\n\r\n"
        elif body or rng.random() < 0.5:
            head.append(b"Content-Length: %d" % len(body))

        return b"\r\n".join(head) + b"\r\n\r\n" + body


def closing(request):
    """The request, with a wish to close the connection after it."""

    head, _, body = request.partition(b"\r\n\r\n")
    return head + b"\r\nConnection: close\r\n\r\n" + body


def spoilt(raw, mark):
    """Is the mark lost, or a secret anywhere but in its own header?"""

    if b"\r\nX-Case: %s\r\n" % mark not in raw \
            or set(MARK.findall(raw)) != {mark.strip(b"@")}:
        return True

    places = (rb"(?im)^(authorization: bearer|x-api-key:|cookie: session=) ?"
              rb"(%s)\r$" % b"|".join(SECRETS))
    left = re.sub(places, b"", raw)

    return any(secret[:6] in left for secret in SECRETS)


class Answer:
    """What the upstream answers to a case.

    An answer of the wild server may be framed wrongly or follow itself with
    anything; its connections are never used again.  The other servers keep
    theirs, so that their answers, though cut or nonsense inside, end where
    they say: what follows on such a connection would be the next answer.
    """

    def __init__(self, seed, number, mark, samples, wild):
        rng = random.Random(f"answer {seed} {number}")
        kind, raw, body = rng.choice(samples)

        if rng.random() < 0.6:
            body = mutated(rng, body)

        if wild and rng.random() < 0.5:
            self.data = mutated(rng, raw)
        else:
            self.data = self.framed(rng, kind, marked(rng, body, mark), mark,
                                    wild)

        self.step = rng.choice([1 << 20, 1 << 20, 700, 100, 17, 1])
        if self.step == 1 and len(self.data) > 3000:
            self.step = 37

        self.cut = len(self.data)
        if rng.random() < 0.2:
            self.cut = rng.randint(0, len(self.data))

        self.reset = rng.random() < 0.2
        self.close = (self.close or self.cut < len(self.data)
                      or self.reset or rng.random() < 0.2)
        self.silent = rng.random() < 0.004

    close = True

    def framed(self, rng, kind, body, mark, wild):
        status = rng.choice(STATUSES)
        head = [b"HTTP/1.1 %d X" % status, b"X-Case: " + mark]

        if rng.random() < 0.3:
            kind = rng.choice(TYPES)
        if kind:
            head.append(b"Content-Type: " + kind)
        if rng.random() < 0.3:
            head.append(rng.choice(ANSWER_HEADERS))

        framing = rng.random()

        if framing < 0.6:
            head.append(b"Transfer-Encoding: chunked")
            body = chunked(rng, body)
            self.close = rng.random() < 0.15
            if not self.close:
                body += b"0\r\n\r\n"

        elif framing < 0.9:
            length = len(body)
            if wild:
                length = max(0, length + rng.randint(-5, 50))
            head.append(b"Content-Length: %d" % length)
            self.close = False

        # An answer without a body is followed by nothing.

        if status in (101, 204, 304) or status > 599:
            self.close = True

        if rng.random() < 0.05:
            head.insert(0, b"HTTP/1.1 100 Continue\r\n")
            self.close = True

        return b"\r\n".join(head) + b"\r\n\r\n" + body


def marked(rng, body, mark):
    """The body with the mark in some of its texts."""

    return re.sub(rb'("(?:content|text|response|delta|message|id)": ?")',
                  lambda m: m.group(1) + (mark if rng.random() < 0.8 else b""),
                  body)
