"""The NGINX under test: its configuration, start, state and end."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from case import TOKEN

ROOT = Path(__file__).resolve().parent.parent.parent
BINARY = ROOT / "build/asan/nginx"

WORKERS = 2

CONFIG = """
daemon off;
user root;
worker_processes {workers};
error_log {dir}/error.log notice;
pid {dir}/nginx.pid;

events {{
    worker_connections 512;
}}

http {{
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    proxy_cache_path {dir}/cache keys_zone=cache:1m;

    log_format case escape=json '$http_x_case $status $clawd_user '
        '$clawd_model $clawd_prompt_tokens $clawd_completion_tokens '
        '$clawd_usage_source $clawd_ttft $clawd_finish_reason $clawd_error '
        '$clawd_upstream $clawd_upstream_host $clawd_request_id '
        '"$request_uri"';
    access_log {dir}/access.log case;

    clawd_zone clawd:1m;
    clawd_token {token} user=alice;

    upstream kept {{ server 127.0.0.1:{kept}; keepalive 4; }}
    upstream wild {{ server 127.0.0.1:{wild}; }}

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_read_timeout 2s;
    proxy_ignore_headers X-Accel-Limit-Rate;
    client_header_timeout 2s;
    client_body_timeout 2s;
    keepalive_timeout 2s;
    send_timeout 2s;
    lingering_timeout 1s;
    lingering_time 2s;

    server {{
        listen 127.0.0.1:{port};
        server_name plain;
        location / {{ clawd_pass http://kept; }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name capped;
        client_body_buffer_size 64;
        location / {{ clawd_pass http://kept; clawd_max_tokens 100; }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name cors;
        location / {{
            clawd_pass http://kept;
            clawd_cors https://app.example;
        }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name tokenarg;
        location / {{ clawd_pass http://kept; clawd_auth token_arg; }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name small;
        location / {{
            clawd_pass http://kept;
            proxy_buffer_size 1k;
            proxy_buffers 4 1k;
            proxy_busy_buffers_size 2k;
        }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name cached;
        location / {{
            clawd_pass http://kept;
            proxy_cache cache;
            proxy_cache_methods GET HEAD POST;
            proxy_cache_key $connection$request_uri$http_x_case;
            proxy_cache_valid any 3s;
        }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name paged;
        proxy_intercept_errors on;
        error_page 400 401 404 415 /page;
        error_page 500 502 503 504 @again;
        error_page 429 = @said;
        location / {{ clawd_pass http://kept; }}
        location = /page {{ return 404 "page"; }}
        location @again {{ clawd_pass http://wild; }}
        location @said {{ return 429 "said"; }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name gzipped;
        gzip on;
        gzip_types *;
        gzip_min_length 1;
        location / {{ clawd_pass http://kept; }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name filed;
        location / {{
            clawd_pass http://kept;
            client_body_in_file_only clean;
            proxy_request_buffering off;
        }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name limited;
        location / {{
            clawd_pass http://kept;
            clawd_max_tokens 7;
            limit_except POST {{ deny all; }}
            if ($arg_a) {{ set $b 1; }}
        }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name wild;
        location / {{ clawd_pass http://wild; clawd_max_tokens 100; }}
    }}
    server {{
        listen 127.0.0.1:{metrics};
        access_log off;
        location = /metrics {{ clawd_metrics; }}
    }}
}}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Nginx:

    def __init__(self, upstream_ports, config=CONFIG, count=WORKERS, **values):
        self.count = count
        self.dir = Path(tempfile.mkdtemp(prefix="clawd-hostile-"))
        self.port = free_port()
        self.metrics_port = free_port()
        (self.dir / "nginx.conf").write_text(config.format(
            dir=self.dir, workers=count, token=TOKEN.decode(), port=self.port,
            metrics=self.metrics_port, kept=upstream_ports[0],
            wild=upstream_ports[1], **values))

    def start(self):
        report = f"log_path={self.dir}/sanitizer"
        env = dict(os.environ,
                   ASAN_OPTIONS=f"{report}:detect_stack_use_after_return=1"
                                ":quarantine_size_mb=16",
                   UBSAN_OPTIONS=f"{report}:print_stacktrace=1",
                   LSAN_OPTIONS=f"suppressions={ROOT}/t/lib/lsan.supp:"
                                "print_suppressions=0")

        with open(self.dir / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [BINARY, "-p", self.dir, "-c", self.dir / "nginx.conf"],
                env=env, stderr=stderr)

        for _ in range(600):
            if self.process.poll() is not None:
                break
            if len(self.workers()) == self.count and self.page():
                self.born = self.workers()
                return
            time.sleep(0.05)

        self.stop()
        raise SystemExit("NGINX did not start: "
                         + (self.dir / "stderr").read_text())

    def stop(self):
        """A quick end, as leaks are looked for at every exit."""

        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                for pid in self.workers():
                    os.kill(pid, signal.SIGKILL)
                self.process.kill()
                self.process.wait()

    def remove(self):
        shutil.rmtree(self.dir, ignore_errors=True)

    def workers(self):
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}")
        children = (path / "children").read_text().split()
        return sorted(int(p) for p in children if b"worker process" in
                      Path(f"/proc/{p}/cmdline").read_bytes())

    def page(self):
        """The metrics page, or nothing when it cannot be had."""

        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    def in_flight(self):
        values = re.findall(r"^clawdbot_requests_in_flight(?:{.*})? (\S+)$",
                            self.page(), re.M)
        return sum(map(float, values)) if values else None

    def error_log(self):
        return (self.dir / "error.log").read_text(errors="replace")

    def access_log(self):
        return (self.dir / "access.log").read_text(errors="replace")

    def reports(self):
        return [p.read_text(errors="replace")
                for p in sorted(self.dir.glob("sanitizer*"))]
