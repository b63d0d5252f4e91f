"""Who hears of an alert in the end: a webhook, and the engine of Docker."""

import http.server
import json
import queue
import socketserver
import ssl
import threading
import urllib.parse


RESTART = "/containers/clawdbot-ollama/restart?t=10"
RELOAD = "/containers/f00d/kill?signal=HUP"


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Docker, on a socket, as far as it is asked: with Ollama's container, and
    one of a gateway, f00d, in the same project.

    asked: the paths of POST requests
    restart: what to do for a restart; returns a status and a text
    reload: the same for word to the gateway
    """

    daemon_threads = True

    def __init__(self, path, restart=lambda: (204, "")):
        super().__init__(str(path), Asked)
        self.asked = []
        self.restart = restart
        self.reload = lambda: (204, "")
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class Asked(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.asked.append(self.path)
        does = {RESTART: self.server.restart, RELOAD: self.server.reload}
        self.answer(*does[self.path]())

    def do_GET(self):
        path, _, query = self.path.partition("?")
        labels = {"com.docker.compose.project": "clawd",
                  "com.docker.compose.service": "ollama"}
        if path == "/containers/clawdbot-ollama/json":
            self.answer(200, json.dumps({"Config": {"Labels": labels}}))
            return
        wanted = json.loads(urllib.parse.parse_qs(query)["filters"][0])
        assert path == "/containers/json" and wanted == {"label": [
            "com.docker.compose.project=clawd",
            "com.docker.compose.service=clawdbot"]}
        self.answer(200, json.dumps([{"Id": "f00d"}]))

    def answer(self, status, text):
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def address_string(self):
        return "a socket"

    def log_message(self, *_):
        pass


class Listener(http.server.ThreadingHTTPServer):
    """Takes what is posted; answers with a document."""

    daemon_threads = True

    def __init__(self, port, certificate=None):
        super().__init__(("127.0.0.1", port), Listening)
        self.got = queue.Queue()
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def next(self, timeout=60):
        return self.got.get(timeout=timeout)

    def close(self):
        self.shutdown()
        self.server_close()


class Listening(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.got.put((self.path, None))
        self.answer({"access_token": "t0ken", "errcode": 0})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.put((self.path, json.loads(body)))
        self.answer({"errcode": 0, "errmsg": "ok"})

    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
