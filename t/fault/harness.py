"""What the fault suites share: Redis servers, gateways, the scripted upstream
as processes of their own, a client of Redis, and the count of checks.

Every process has a group of its own and ends with the suite, however that
ends.  Nothing here waits for seconds: only for states, with a bound.
"""

import atexit
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Another binary has the module linked in: CLAWD_NGINX=build/asan/nginx.

BINARY = os.environ.get("CLAWD_NGINX", "")
PACKAGED = shutil.which("nginx") or "/usr/sbin/nginx"
MODULE = os.environ.get("CLAWD_MODULE",
                        str(ROOT / "build/dynamic/ngx_http_clawd_module.so"))

REDIS_TIMEOUT = 0.1

# What a killed process leaves in a log, and nothing else that is grave.

GRAVE = re.compile(r"\[(alert|emerg)\]|Sanitizer|runtime error")
KILLED = re.compile(r"exited on signal 9|was locked by")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, timeout=10.0, pause=0.01):
    """The condition's first true value; a failure names what was awaited."""

    end = time.monotonic() + timeout

    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(pause)


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


def noon_zone():
    """A zone in which it is about noon: no day ends while a test runs."""

    hours = 12 - time.gmtime().tm_hour
    return f"{'-' if hours < 0 else '+'}{abs(hours):02}:00"


# processes

groups = set()


def end_all():
    for process in list(groups):
        end(process)


def end(process):
    """Ends a process and what it started; a stopped one, too."""

    groups.discard(process)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def begin(*command, **options):
    process = subprocess.Popen([str(part) for part in command],
                               stdin=subprocess.DEVNULL,
                               start_new_session=True, **options)
    groups.add(process)
    return process


atexit.register(end_all)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda *_: sys.exit(1))


class Folder:
    """A temporary folder; stays, and is named, when the suite failed."""

    kept = []

    def __init__(self, name):
        self.path = Path(tempfile.mkdtemp(prefix=f"clawd-{name}-"))
        os.chmod(self.path, 0o755)
        Folder.kept.append(self.path)

    @classmethod
    def remove_all(cls):
        for path in cls.kept:
            shutil.rmtree(path, ignore_errors=True)


# Redis

class RedisError(Exception):
    pass


class Client:
    """A connection that speaks as much RESP2 as the tests need."""

    def __init__(self, port, timeout=5.0):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.file = self.socket.makefile("rb")

    def __call__(self, *args):
        parts = [str(arg).encode() for arg in args]
        self.socket.sendall(
            b"*%d\r\n" % len(parts)
            + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
        return self.read()

    def read(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("Redis closed the connection")

        kind, text = line[:1], line[1:-2].decode()
        if kind == b"+":
            return text
        if kind == b"-":
            raise RedisError(text)
        if kind == b":":
            return int(text)
        if kind == b"$":
            if int(text) < 0:
                return None
            return self.file.read(int(text) + 2)[:-2].decode()
        return [self.read() for _ in range(int(text))]

    def close(self):
        self.file.close()
        self.socket.close()


class Redis:
    """A server of the suite's own; aof is always, everysec or none."""

    def __init__(self, aof="none", options=()):
        self.aof = aof
        self.options = options
        self.port = free_port()
        self.dir = Folder("redis").path
        self.process = None

    def start(self):
        durable = ["--appendonly", "yes", "--appendfsync", self.aof]
        self.process = begin(
            "redis-server", "--port", self.port, "--bind", "127.0.0.1",
            "--save", "", "--dir", self.dir, "--daemonize", "no",
            "--logfile", self.dir / "redis.log",
            *(durable if self.aof != "none" else ()), *self.options)
        wait_for("Redis", self.answers)
        return self

    def answers(self):
        try:
            client = Client(self.port, 1.0)
        except OSError:
            return False
        try:
            return client("PING") == "PONG"
        except RedisError as e:
            return "NOAUTH" in str(e)
        except OSError:
            return False
        finally:
            client.close()

    def __call__(self, *args):
        client = Client(self.port)
        try:
            return client(*args)
        finally:
            client.close()

    def kill(self):
        end(self.process)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    # what an admin writes

    def user(self, name, token=None, **fields):
        pairs = [x for pair in fields.items() for x in pair]
        self("HSET", f"clawd:user:{name}", *(pairs or ["disabled", "0"]))
        if token:
            self("HSET", f"clawd:key:{digest(token)}", "user", name)

    # what the gateways keep

    def usage(self, name):
        flat = self("HGETALL", f"clawd:{{{name}}}:u:{name}")
        return {key: int(value) for key, value in zip(flat[::2], flat[1::2])
                if value.isdigit()}

    def used(self, name):
        return self.usage(name).get("du", 0)

    def in_flight(self, name):
        return self("ZCARD", f"clawd:{{{name}}}:f:{name}")


class Proxy:
    """Between gateways and a Redis; what the server says can be withheld."""

    def __init__(self, redis):
        self.redis = redis
        self.muted = False
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.redis.port))
            except OSError:
                return
            for args in ((near, far, False), (far, near, True)):
                threading.Thread(target=self.relay, args=args,
                                 daemon=True).start()

    def relay(self, source, target, reply):
        """What was withheld never comes: the connection ends instead."""

        try:
            while data := source.recv(65536):
                if reply and self.muted:
                    continue
                target.sendall(data)
        except OSError:
            pass
        for end_ in (source, target):
            try:
                end_.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()


# the upstream

class Upstream:
    """t/fault/upstream.py, and what it noted."""

    def __init__(self):
        self.port = free_port()
        self.log = Folder("upstream").path / "log"
        self.process = begin(sys.executable, HERE / "upstream.py", self.port,
                             self.log)
        wait_for("the upstream", lambda: listening(self.port))

    def entries(self):
        """One dictionary per request, in the order of their start."""

        found = {}

        for line in self.log.read_text().splitlines():
            entry = json.loads(line)
            found.setdefault(entry["n"], {}).update(entry)

        return list(found.values())

    def live(self, user):
        return [e for e in self.entries()
                if e["user"] == user and "end" not in e]

    def stop(self):
        end(self.process)


def listening(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
        return True
    except OSError:
        return False


# the gateway

CONFIG = """
daemon off;
{load}
user root;
worker_processes {workers};
worker_shutdown_timeout 5s;
error_log {dir}/error.log notice;
pid {dir}/nginx.pid;

events {{
    worker_connections 1024;
}}

http {{
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;

    log_format short '$msec $request_time $status $clawd_user $clawd_error '
                     '$upstream_response_time';
    access_log {dir}/access.log short;

    clawd_zone clawd:4m;
    {http}

    limit_conn_zone $http_x_who zone=plain:1m;
    limit_conn_status 429;

    upstream model {{ server 127.0.0.1:{upstream}; keepalive 64; }}
    include {root}/clawd_proxy.conf;

    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            clawd_pass http://model;
            {location}
        }}
        location /plain/ {{
            limit_conn plain 4;
            proxy_pass http://model/;
        }}
    }}
    server {{
        listen 127.0.0.1:{metrics};
        access_log off;
        location = /metrics {{ clawd_metrics; }}
    }}
}}
"""


class Answer:

    def __init__(self, status, headers, text):
        self.status = status
        self.headers = headers
        self.text = text

    def json(self):
        return json.loads(self.text)

    def message(self):
        try:
            return self.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            return self.text


class Gateway:
    """An NGINX: redis is a Redis, or None for the embedded ledger."""

    def __init__(self, upstream, redis=None, workers=2, on_down="deny",
                 http="", location="", link=None, state=None):
        self.dir = Folder("gateway").path
        self.state = state or self.dir / "state"
        self.redis = redis
        self.workers_wanted = workers
        self.port = free_port()
        self.metrics_port = free_port()
        self.process = None

        lines = [f"clawd_state {self.state};"]
        if redis:
            link = link or f"redis://127.0.0.1:{redis.port}/0"
            lines.append(f"clawd_redis {link} on_down={on_down} "
                         f"timeout={REDIS_TIMEOUT * 1000:.0f}ms;")
        lines.append(http)

        (self.dir / "nginx.conf").write_text(CONFIG.format(
            load="" if BINARY else f"load_module {MODULE};", dir=self.dir,
            root=ROOT, workers=workers, http="\n    ".join(lines),
            location=location, upstream=upstream.port, port=self.port,
            metrics=self.metrics_port))

    def start(self, wait=True):
        report = f"log_path={self.dir}/sanitizer"
        env = dict(os.environ,
                   ASAN_OPTIONS=f"{report}:detect_stack_use_after_return=1",
                   UBSAN_OPTIONS=f"{report}:print_stacktrace=1",
                   LSAN_OPTIONS=f"suppressions={ROOT}/t/lib/lsan.supp:"
                                "print_suppressions=0")
        with open(self.dir / "stderr", "ab") as stderr:
            self.process = begin(BINARY or PACKAGED, "-p", self.dir, "-e",
                                 self.dir / "error.log", "-c",
                                 self.dir / "nginx.conf", env=env,
                                 stderr=stderr)
        if wait:
            self.wait_up()
        return self

    def wait_up(self):
        wait_for("NGINX", lambda: self.process.poll() is not None
                 or (len(self.workers()) == self.workers_wanted
                     and self.page()), 30)
        if self.process.poll() is not None:
            raise RuntimeError("NGINX did not start: "
                               + (self.dir / "stderr").read_text()
                               + self.error_log()[-2000:])

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                print(f"note   {self.dir}: did not end by itself")
        end(self.process)

    def kill(self):
        """Master and workers at once; their port is free afterwards."""
        end(self.process)
        wait_for("the killed to be gone", lambda: not listening(self.port))

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def workers(self, old=False):
        return [pid for pid, title in self.children()
                if "worker process" in title
                and (old or "shutting" not in title)]

    def manager(self):
        """Which writes the file of the zone's ledger; None without one."""

        return next((pid for pid, title in self.children()
                     if "cache manager" in title), None)

    def children(self, pid=None):
        pid = pid or self.process.pid
        path = Path(f"/proc/{pid}/task/{pid}")
        found = []
        try:
            children = (path / "children").read_text().split()
        except OSError:
            return []
        for pid in children:
            try:
                title = Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:
                continue
            found.append((int(pid), title))
        return sorted(found)

    def kill_worker(self, pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    # what it says

    def page(self):
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    def metric(self, name, **labels):
        """The sum over the lines with these labels; None if there is none."""

        values = []
        for line in self.page().splitlines():
            match = re.match(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if match and match.group(1) == name \
                    and all(f'{k}="{v}"' in (match.group(2) or "")
                            for k, v in labels.items()):
                values.append(float(match.group(3)))
        return sum(values) if values else None

    def get(self, path, token, timeout=10):
        return self.fetch(path, token, None, timeout)

    def chat(self, token, model="llama3", max_tokens=20, script="", size=0,
             timeout=10, user="-"):
        """One whole request, as a client that waits for it."""
        return self.fetch("/v1/chat/completions", token,
                          body_of(user, script, model, max_tokens, False,
                                  size), timeout)

    def fetch(self, path, token, body, timeout):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body,
            headers={"Authorization": f"Bearer {token}",
                     "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Answer(answer.status, answer.headers,
                              answer.read().decode())
        except urllib.error.HTTPError as e:
            with e:
                return Answer(e.code, e.headers, e.read().decode())

    def error_log(self):
        try:
            return (self.dir / "error.log").read_text(errors="replace")
        except OSError:
            return ""

    def grave(self):
        """Lines that must not be there."""

        text = [self.error_log()]
        text += [p.read_text(errors="replace")
                 for p in self.dir.glob("sanitizer*")]
        return [line for line in "\n".join(text).splitlines()
                if GRAVE.search(line) and not KILLED.search(line)]


def body_of(user, script="", model="llama3", max_tokens=20, stream=False,
            size=0):
    """A chat whose text tells the upstream who asks and what to do: see
    upstream.py.  size: bytes of text to be added."""

    return json.dumps({
        "model": model, "max_tokens": max_tokens, "stream": stream,
        "messages": [{"role": "user",
                      "content": f"@{user} {script} @{'x' * size}"}],
    }, separators=(",", ":")).encode()


class Stream:
    """A request whose answer goes on until it is released or left.  A slow one
    comes without its last byte: see finish()."""

    def __init__(self, gateway, token, user, script="hold=30", path="/v1",
                 max_tokens=20, slow=False):
        body = body_of(user, script, max_tokens=max_tokens, stream=True)
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), 10)
        request = (
            b"POST %s/chat/completions HTTP/1.1\r\nHost: a\r\n"
            b"X-Who: %s\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n"
            b"Content-Type: application/json\r\n\r\n%s"
            % (path.encode(), user.encode(), token.encode(), len(body), body))
        self.rest = request[-1:] if slow else b""
        self.socket.sendall(request[:-1] if slow else request)
        self.data = b""

    def finish(self):
        self.socket.sendall(self.rest)

    def status(self):
        while b"\r\n\r\n" not in self.data:
            piece = self.socket.recv(65536)
            if not piece:
                return 0
            self.data += piece
        return int(self.data.split()[1])

    def to_end(self):
        """All that comes, until the last chunk or the end."""

        while not self.data.endswith(b"0\r\n\r\n"):
            piece = self.socket.recv(65536)
            if not piece:
                break
            self.data += piece
        return self.data.decode(errors="replace")

    def close(self):
        self.socket.close()


# the count of checks

class Report:

    def __init__(self, name):
        self.name = name
        self.passed = 0
        self.failed = 0

    def check(self, what, good, detail=""):
        if good:
            self.passed += 1
            print(f"ok     {what}" + (f": {detail}" if detail else ""),
                  flush=True)
        else:
            self.failed += 1
            print(f"FAILED {what}" + (f": {detail}" if detail else ""),
                  flush=True)
        return good

    def equal(self, what, is_, should):
        return self.check(what, is_ == should,
                          "" if is_ == should else f"{is_!r}, not {should!r}")

    def soon(self, what, condition, timeout=2.0):
        """The condition must come true within the time; says when it did."""

        start = time.monotonic()
        try:
            wait_for(what, condition, timeout)
        except TimeoutError as e:
            return self.check(what, False, str(e))
        return self.check(what, True, f"{time.monotonic() - start:.2f} s")

    def clean(self, *gateways):
        for gateway in gateways:
            lines = gateway.grave()
            self.check("nothing grave in the log", not lines,
                       "\n       ".join(lines[:5]))

    def part(self, name, function, *args):
        """Runs a part; what it raises is one failure, and the rest goes on."""

        print(f"--- {name}", flush=True)
        start = time.monotonic()
        try:
            function(self, *args)
        except Exception as e:  # the suite's own faults count as failures
            import traceback
            traceback.print_exc()
            self.check(name, False, f"{type(e).__name__}: {e}")
        finally:
            end_all()
        print(f"       {time.monotonic() - start:.1f} s", flush=True)

    def close(self):
        if self.failed == 0:
            Folder.remove_all()
        else:
            print("kept: " + " ".join(map(str, Folder.kept)))
        print(f"{self.name}: {self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0
