"""Takes alerts from Alertmanager and runs scale_up.sh for those that ask for it.

    POST /alerts    a webhook of Alertmanager, with "Authorization: Bearer TOKEN"
    GET /health     200

An alert that fires and has the label selfheal="ollama" is one that asks.  What
else it says changes nothing: scale_up.sh gets its name, and knows itself what
to restart and how often at most.  docs/self-healing.md.
"""

import argparse
import hmac
import http.server
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "scale_up.sh"
BODY_MAX = 1 << 20
PATIENCE = 10       # seconds for a client to send the next bytes


def log(text):
    print(f"responder: {text}", file=sys.stderr, flush=True)


def asking(document):
    """The names of the alerts that ask for a restart, each once."""
    names = []
    for alert in document["alerts"]:
        labels = alert["labels"]
        if alert["status"] == "firing" and labels.get("selfheal") == "ollama":
            name = str(labels.get("alertname", ""))
            if not re.fullmatch(r"\w{1,64}", name, re.ASCII):
                raise ValueError("an alert's name has other characters")
            if name not in names:
                names.append(name)
    return names


class Refused(Exception):
    """Of a request: a status and a sentence."""


class Handler(http.server.BaseHTTPRequestHandler):
    timeout = PATIENCE

    def do_GET(self):
        if self.path == "/health":
            self.reply(200, "well")
        else:
            self.reply(404, "there are /health and /alerts here")

    def do_POST(self):
        try:
            self.reply(*self.alerts())
        except Refused as refused:
            status, text = refused.args
            log(f"refused a request from {self.address_string()}: {text}")
            self.reply(status, text)

    def alerts(self):
        if self.path != "/alerts":
            raise Refused(404, "there are /health and /alerts here")
        self.check_token()
        try:
            names = asking(json.loads(self.body()))
        except (ValueError, LookupError, TypeError, AttributeError,
                RecursionError):
            raise Refused(400, "that is no webhook of Alertmanager") from None
        if not names:
            return 200, "no alert that asks for a restart"
        # The script waits for no other restart, so neither does this.
        done = subprocess.run(["sh", SCRIPT, *names], check=False,
                              stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            return 500, "scale_up.sh failed, see its log"
        return 200, "scale_up.sh did what it may"

    def check_token(self):
        given = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, self.server.wanted):
            raise Refused(401, "wrong token")

    def body(self):
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length, re.ASCII):
            raise Refused(411, "a request needs its length")
        if int(length) > BODY_MAX:
            raise Refused(413, "too long for a webhook of Alertmanager")
        return self.rfile.read(int(length))

    def reply(self, status, text):
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Health checks are no news; what is done has lines of its own."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listen, token):
        host, _, port = listen.rpartition(":")
        self.wanted = f"Bearer {token}".encode()
        super().__init__((host, int(port)), Handler)

    def handle_error(self, request, client_address):
        log(f"{client_address[0]} left: {sys.exception()!r}")


def read_token(path):
    try:
        token = pathlib.Path(path).read_text().strip()
    except OSError as error:
        sys.exit(f"responder: {path}: {error.strerror}: docker/setup.sh makes"
                 " it")
    if not token:
        sys.exit(f"responder: {path} is empty: write a token into it")
    return token


def main():
    parser = argparse.ArgumentParser(description="runs scale_up.sh on alerts")
    parser.add_argument("--listen", metavar="HOST:PORT",
                        default="127.0.0.1:9095")
    parser.add_argument("--token-file", metavar="FILE", required=True,
                        help="what Alertmanager has to send as its token")
    options = parser.parse_args()

    token = read_token(options.token_file)
    # What would be wrong when it is needed is wrong now.
    if subprocess.run(["sh", SCRIPT, "--check"], check=False).returncode != 0:
        sys.exit(1)

    server = Server(options.listen, token)
    # The first process of a container has no signals but those it takes.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(
        target=server.shutdown).start())
    log(f"listening on {options.listen}")
    server.serve_forever(poll_interval=0.1)


main()
