"""What stands beside the gateway: an Ollama of one model with scripted answers,
and a real Redis with the one user that docs/quotas.md describes."""

import http.server
import json
import re
import ssl
import subprocess
import threading

from harness import ROOT, Server, wait_until

MODEL = "qwen3:0.6b"
WORDS = ["Hello", " there", "."]
USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def completion(**fields):
    return {"id": "chatcmpl-7", "created": 1760000000, "model": MODEL,
            "system_fingerprint": "fp_ollama", **fields}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply({"object": "list", "data": [
            {"id": MODEL, "object": "model", "owned_by": "library"}]})

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        request = json.loads(self.rfile.read(length))
        self.server.seen.append(self.headers)
        if request.get("stream"):
            self.stream(request.get("stream_options") or {})
            return
        self.reply(completion(object="chat.completion", usage=USAGE, choices=[
            {"index": 0, "finish_reason": "stop",
             "message": {"role": "assistant", "content": "".join(WORDS)}}]))

    def reply(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, options):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in WORDS:
            self.event({"delta": {"role": "assistant", "content": word},
                        "finish_reason": None})
            # the first word is out, the others come when the test says so
            self.server.flowing.wait(30)
        self.event({"delta": {"role": "assistant", "content": ""},
                    "finish_reason": "stop"})
        if options.get("include_usage"):
            self.send(completion(object="chat.completion.chunk", choices=[],
                                 usage=USAGE))
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, choice):
        self.send(completion(object="chat.completion.chunk",
                             choices=[{"index": 0, **choice}]))

    def send(self, document):
        self.chunk(f"data: {json.dumps(document)}\n\n".encode())

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


class Ollama(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port=11434, certificate=None):
        self.seen = []
        self.flowing = threading.Event()
        self.flowing.set()
        super().__init__(("127.0.0.1", port), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """A client that leaves, or distrusts, is a part of the tests."""

    def close(self):
        self.flowing.set()
        self.shutdown()
        self.server_close()


class Redis(Server):
    """On its usual port.  The default user is off; an admin is for the test."""

    password = 'p@ss:w/o%rd?"#é'
    rules = re.search(r"ACL SETUSER clawd reset on '>change-this' (.*)",
                      (ROOT / "docs/quotas.md").read_text())[1].replace("'", "")

    def __init__(self, folder):
        acl = folder / "users.acl"
        acl.write_text(f"user default off\nuser admin on nopass ~* &* +@all\n"
                       f"user clawd reset on >{self.password} {self.rules}\n")
        super().__init__(folder, [
            "redis-server", "--bind", "127.0.0.1", "--port", "6379",
            "--save", "", "--aclfile", acl])
        wait_until("Redis", lambda: self("PING") == "PONG")

    def __call__(self, *words):
        return subprocess.run(
            ["redis-cli", "--user", "admin", "--pass", "any",
             "--no-auth-warning", *words],
            capture_output=True, text=True).stdout.strip()


def quoted(text):
    """As a URL has it."""
    return "".join(c if c.isalnum() and c.isascii() else
                   "".join(f"%{byte:02X}" for byte in c.encode()) for c in text)
