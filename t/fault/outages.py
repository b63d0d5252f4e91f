#!/usr/bin/env python3
"""Redis outages of each kind, with what each on_down promises, and no usage
lost or charged twice.

    outages.py [PART ...]
"""

import re
import signal
import socket
import subprocess
import sys
import threading
import time

from harness import (REDIS_TIMEOUT, Client, Folder, Gateway, Proxy, Redis,
                     RedisError, Report, Stream, Upstream, digest, free_port,
                     noon_zone,
                     wait_for)

# Several words of Redis, and what a busy machine adds.

PROMPT = 4 * REDIS_TIMEOUT + 0.6

# The link tries again at least that often, in seconds.

BACK = 7.0

TOKEN = "token-of-alice"


def admin(redis, limit=100000):
    redis.user("alice", TOKEN, tokens_per_day=limit, tz=noon_zone())


class Outage:
    """One gateway or more and one Redis, with alice."""

    def __init__(self, report, aof="always", count=1, up=True, limit=100000,
                 **options):
        self.report = report
        self.limit = limit
        self.redis = Redis(aof)
        self.upstream = Upstream()
        if up:
            self.redis.start()
            admin(self.redis, limit)
        self.gateways = [Gateway(self.upstream, self.redis, **options).start()
                         for _ in range(count)]
        self.gateway = self.gateways[0]
        if up:
            for gateway in self.gateways:
                wait_for("the first answer", lambda g=gateway: g.chat(
                    TOKEN, script="fast tokens=1,1", user="alice").status
                    == 200)

    @classmethod
    def of(cls, report, redis, link):
        """A gateway of a Redis that is there, linked as told."""

        outage = cls.__new__(cls)
        outage.report = report
        outage.redis = redis
        outage.upstream = Upstream()
        outage.gateway = Gateway(outage.upstream, redis, link=link).start()
        outage.gateways = [outage.gateway]
        return outage

    def chat(self, gateway=None, token=TOKEN, tokens="30,20", max_tokens=20):
        """Status, and the seconds that it took."""
        start = time.monotonic()
        answer = (gateway or self.gateway).chat(
            token, script=f"fast tokens={tokens}", user="alice",
            max_tokens=max_tokens)
        self.answer = answer
        return answer.status, time.monotonic() - start

    def refused(self, what):
        """503 with Retry-After, and prompt."""
        results = [self.chat() for _ in range(10)]
        self.report.check(f"{what}: 503", {s for s, _ in results} == {503},
                          str([s for s, _ in results]))
        self.report.check(f"{what}: Retry-After", int(
            self.answer.headers.get("Retry-After", 0)) > 0)
        worst = max(t for _, t in results)
        self.report.check(f"{what}: no request waits over {PROMPT:g} s",
                          worst <= PROMPT, f"{worst:.3f} s")

    def down(self, class_=None):
        self.report.soon("redis_up is 0", lambda: self.gateway.metric(
            "clawdbot_redis_up") == 0 or self.chat() is None, 5)
        if class_:
            self.report.check(f"an error of class {class_} is counted", (
                self.gateway.metric("clawdbot_redis_errors_total",
                                    **{"class": class_}) or 0) > 0)

    def back(self):
        self.report.soon("it is back", lambda: self.chat()[0] == 200, BACK)
        self.report.soon("redis_up is 1", lambda: self.gateway.metric(
            "clawdbot_redis_up") == 1, BACK)

    def counted(self):
        """Requests that were counted, and so settled: that is some moments
        behind the last byte of their answer."""
        return self.gateway.metric("clawdbot_user_requests_total",
                                   user="alice") or 0

    def answered(self):
        return sum(e["tokens"] for e in self.upstream.entries()
                   if e["user"] == "alice" and e.get("whole"))

    def exact(self, timeout=BACK):
        """Everything that was answered is charged, once."""

        def settled():
            return self.redis.in_flight("alice") == 0 \
                and self.redis.used("alice") == self.answered()

        try:
            wait_for("used = answered", settled, timeout)
        except TimeoutError:
            pass
        self.report.equal("used = answered, to the token",
                          self.redis.used("alice"), self.answered())
        self.report.equal("nothing is in flight",
                          self.redis.in_flight("alice"), 0)

    def stays_exact(self):
        """A second replay would show by now."""
        self.chat()
        self.chat()
        self.exact()

    def spool(self):
        return [p for p in self.gateway.state.parent.glob(
            self.gateway.state.name + ".spool*") if p.stat().st_size]

    def close(self):
        for gateway in self.gateways:
            gateway.stop()
        self.report.clean(*self.gateways)


# parts

def late(report):
    """Redis is not there when the gateway starts."""

    outage = Outage(report, up=False)
    outage.refused("no Redis yet")
    outage.down("connect")
    outage.redis.start()
    admin(outage.redis)
    outage.back()
    report.equal("a stranger is one now", outage.chat(token="x")[0], 401)
    outage.exact()
    outage.close()


def fresh(report):
    """New workers get requests before their link has said hello: these wait
    for it, and nobody is refused by a reload."""

    outage = Outage(report, limit=10000000)
    seen = []
    ended = threading.Event()

    def ask():
        while not ended.is_set():
            seen.append(outage.gateway.chat(
                TOKEN, script="fast tokens=1,1", user="alice").status)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for _ in range(5):
        old = set(outage.gateway.workers())
        outage.gateway.reload()
        wait_for("new workers", lambda: not old & set(
            outage.gateway.workers()))
        count = len(seen)
        wait_for("answers of theirs", lambda: len(seen) > count + 20)
    ended.set()
    for client in clients:
        client.join()
    report.equal("all are answered", set(seen), {200})
    outage.exact()
    outage.close()


def dies(report):
    """Redis dies with streams running; they end, and are charged later."""

    outage = Outage(report)
    streams = [Stream(outage.gateway, TOKEN, "alice", "hold=3 tokens=30,20")
               for _ in range(4)]
    report.equal("streams run", [s.status() for s in streams], [200] * 4)
    outage.redis.kill()
    outage.refused("Redis is dead")
    outage.down("connect")
    report.check("streams end as if nothing was", all(
        "data: [DONE]" in s.to_end() for s in streams))
    report.soon("their usage is in the file", outage.spool, 5)
    report.soon("spooled are counted", lambda: (outage.gateway.metric(
        "clawdbot_ledger_spooled_total") or 0) >= 1)
    outage.redis.start()
    outage.back()
    outage.exact()
    report.soon("the file is empty", lambda: not outage.spool())
    outage.stays_exact()
    outage.close()


def restarted(report):
    """The gateway ends and starts again while Redis is away."""

    outage = Outage(report)
    streams = [Stream(outage.gateway, TOKEN, "alice", "hold=2 tokens=30,20")
               for _ in range(3)]
    report.equal("streams run", [s.status() for s in streams], [200] * 3)
    outage.redis.kill()
    for stream in streams:
        stream.to_end()
        stream.close()
    outage.gateway.stop()
    report.check("the usage outlives NGINX", bool(outage.spool()))
    outage.gateway.start()
    outage.refused("still no Redis")
    outage.redis.start()
    outage.back()
    outage.exact()
    report.soon("the file is empty", lambda: not outage.spool())

    outage.gateway.stop()
    outage.gateway.start()
    outage.back()
    outage.stays_exact()
    outage.close()


def killed(report):
    """The whole gateway is killed while the usage is in the file."""

    outage = Outage(report)
    stream = Stream(outage.gateway, TOKEN, "alice", "hold=1 tokens=30,20")
    report.equal("a stream runs", stream.status(), 200)
    outage.redis.kill()
    stream.to_end()
    report.soon("its usage is in the file", outage.spool, 6)
    outage.gateway.kill()
    with open(outage.spool()[0], "ab") as file:
        file.write(b"\x00torn")
    outage.gateway.start()
    outage.redis.start()
    outage.back()
    outage.exact()
    outage.stays_exact()
    outage.close()


def hangs(report):
    """Redis is stopped: what it does later for those who left counts not."""

    outage = Outage(report)
    outage.redis.pause()
    threads = [threading.Thread(target=outage.chat) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outage.refused("Redis hangs")
    outage.down("timeout")
    outage.redis.resume()
    outage.back()
    outage.exact()
    outage.close()


def leaves(report):
    """Clients leave while their requests wait for Redis; its late answers
    must find nobody, and charge nobody."""

    outage = Outage(report)
    outage.redis.pause()
    for _ in range(20):
        stream = Stream(outage.gateway, TOKEN, "alice", "fast")
        stream.close()
    outage.redis.resume()
    outage.back()
    outage.exact()
    outage.close()


def mute(report):
    """Redis does what it is told, and its answers get lost: what nobody was
    admitted for is taken back, in the right windows."""

    for zone in ("+00:00", behind()):
        redis = Redis("none").start()
        admin(redis)
        redis("HSET", "clawd:user:alice", "tz", zone, "tpm", 100000)
        proxy = Proxy(redis)
        outage = Outage.of(report, redis, f"redis://127.0.0.1:{proxy.port}")
        outage.back()
        outage.exact()
        day = redis.usage("alice")["dw"]

        # The records are known, so that the reservation is what goes out.

        outage.chat()
        wait_for("the settlement", lambda: redis.in_flight("alice") == 0)
        proxy.muted = True
        statuses = [outage.chat(max_tokens=1000)[0] for _ in range(2)]
        report.equal(f"zone {zone}: no answer, no admission", statuses,
                     [503] * 2)
        report.check("Redis has reserved", redis.in_flight("alice") > 0)
        proxy.muted = False
        outage.back()
        outage.exact()
        report.equal("the day is the same", redis.usage("alice")["dw"], day)
        report.equal("the month's count as well", redis.usage("alice")["mu"],
                     outage.answered())
        outage.close()
        proxy.close()


def mute_killed(report):
    """The same, and the workers die before they can take it back."""

    redis = Redis("none").start()
    admin(redis)
    redis("HSET", "clawd:user:alice", "tz", behind())
    proxy = Proxy(redis)
    outage = Outage.of(report, redis, f"redis://127.0.0.1:{proxy.port}")
    outage.back()
    outage.exact()
    before = redis.usage("alice")

    proxy.muted = True
    report.equal("no answer, no admission", outage.chat()[0], 503)
    stream = Stream(outage.gateway, TOKEN, "alice", "fast")
    for pid in outage.gateway.workers():
        outage.gateway.kill_worker(pid)
    stream.close()
    proxy.muted = False
    outage.back()
    report.soon("places are back", lambda: redis.in_flight("alice") == 0, BACK)
    after = redis.usage("alice")
    report.equal("the day is the same", after["dw"], before["dw"])
    report.check("nothing is given back that was used",
                 after["du"] >= outage.answered(),
                 f"{after['du']}, answered {outage.answered()}")
    outage.close()
    proxy.close()


def behind():
    """A zone in which it is another day than in UTC, if there is one: the day
    before, else the day after."""

    hour = time.gmtime().tm_hour
    return f"-{hour + 1:02}:00" if hour < 13 else f"+{24 - hour:02}:00"


def due(report):
    """Answers end while Redis is away; before their usage is in the file, the
    workers are killed: what is due stands in shared memory."""

    outage = Outage(report)
    before = outage.counted()
    streams = [Stream(outage.gateway, TOKEN, "alice", "hold=0.5 tokens=30,20")
               for _ in range(4)]
    report.equal("streams run", [s.status() for s in streams], [200] * 4)
    outage.redis.kill()
    for stream in streams:
        stream.to_end()
    wait_for("their ends", lambda: outage.counted() == before + 4)
    for pid in outage.gateway.workers():
        outage.gateway.kill_worker(pid)
    outage.redis.start()
    outage.back()
    outage.exact()
    outage.stays_exact()
    outage.close()


def orphaned(report):
    """Workers are killed with streams running while Redis is away: their
    estimates stay charged, their places come back with Redis."""

    outage = Outage(report)
    outage.redis("HSET", "clawd:user:alice", "concurrency", 3)
    before = outage.redis.used("alice")
    streams = [Stream(outage.gateway, TOKEN, "alice") for _ in range(3)]
    report.equal("streams run", [s.status() for s in streams], [200] * 3)
    reserved = outage.redis.used("alice") - before
    outage.redis.kill()
    for pid in outage.gateway.workers():
        outage.gateway.kill_worker(pid)
    outage.redis.start()
    report.soon("their places are back", lambda: outage.redis.in_flight(
        "alice") == 0, BACK)
    report.equal("what they had reserved is charged",
                 outage.redis.used("alice") - before, reserved)
    outage.back()
    outage.close()


def busy(report):
    """A script of somebody else's keeps Redis busy."""

    outage = Outage(report)
    outage.redis("CONFIG", "SET", "lua-time-limit", 50)

    def spin():
        try:
            outage.redis("EVAL", "while true do end", 0)
        except (OSError, RedisError):
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    wait_for("Redis to be busy", lambda: not outage.redis.answers())
    outage.refused("Redis is busy")
    outage.down()
    outage.redis("SCRIPT", "KILL")
    thread.join()
    outage.back()
    outage.exact()
    outage.close()


def replicas(report):
    """Redis wants replicas before it writes, and has none."""

    outage = Outage(report)
    outage.redis("CONFIG", "SET", "min-replicas-to-write", 1)
    outage.refused("NOREPLICAS")
    outage.down("loading")
    outage.redis("CONFIG", "SET", "min-replicas-to-write", 0)
    outage.back()
    outage.exact()
    outage.close()


def unix(report):
    """The link through a socket in the file system."""

    path = Folder("socket").path / "redis"
    redis = Redis("none", ["--unixsocket", path]).start()
    admin(redis)
    outage = Outage.of(report, redis, f"unix:{path}")
    outage.back()
    redis("HSET", "clawd:user:alice", "disabled", 1)
    report.soon("changes are heard", lambda: outage.chat()[0] == 401, 1.5)
    redis("HSET", "clawd:user:alice", "disabled", 0)
    redis.kill()
    outage.refused("Redis is dead")
    redis.start()
    admin(redis)
    outage.back()
    outage.exact()
    outage.close()


def tls(report):
    """TLS: with the right authority, and not with another."""

    folder = Folder("tls").path
    for name in ("right", "wrong"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
             "-subj", "/CN=redis.example", "-addext",
             "subjectAltName=DNS:redis.example", "-days", "2", "-keyout",
             folder / f"{name}.key", "-out", folder / f"{name}.pem"],
            check=True, capture_output=True)

    port = free_port()
    redis = Redis("none", [
        "--tls-port", port, "--tls-cert-file", folder / "right.pem",
        "--tls-key-file", folder / "right.key", "--tls-ca-cert-file",
        folder / "right.pem", "--tls-auth-clients", "no"]).start()
    admin(redis)
    link = f"rediss://127.0.0.1:{port}"

    outage = Outage.of(report, redis, f"{link} ca={folder}/right.pem "
                    "name=redis.example")
    outage.back()
    outage.exact()
    redis("HSET", "clawd:user:alice", "disabled", 1)
    report.soon("changes are heard", lambda: outage.chat()[0] == 401, 1.5)
    redis("HSET", "clawd:user:alice", "disabled", 0)
    outage.close()

    for what, options in (
            ("another authority", f"ca={folder}/wrong.pem name=redis.example"),
            ("another name", f"ca={folder}/right.pem name=other.example")):
        outage = Outage.of(report, redis, f"{link} {options}")
        outage.refused(what)
        outage.close()


class Deaf:
    """Accepts, and never answers; counts what it was sent."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(64)
        self.port = self.socket.getsockname()[1]
        self.requests = 0
        self.kept = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            connection, _ = self.socket.accept()
            self.kept.append(connection)
            if connection.recv(65536):
                self.requests += 1


def left(report, gated):
    """A client leaves while Redis is asked, and a post_action, which takes its
    time, is in its place when the answer fails to come."""

    deaf = Deaf()
    gate = "clawd on;" if gated else ""
    outage = Outage(report, location="post_action /v1/done/completions; } "
                    f"location /v1/done/ {{ {gate} proxy_read_timeout 1s; "
                    "rewrite ^ /v1/completions break; "
                    f"proxy_pass http://127.0.0.1:{deaf.port};")
    time.sleep(0.2)
    before = deaf.requests
    outage.redis.pause()
    for _ in range(5):
        stream = Stream(outage.gateway, TOKEN, "alice", "fast")
        time.sleep(REDIS_TIMEOUT / 3)
        stream.close()
    time.sleep(REDIS_TIMEOUT + 1.5)
    done = deaf.requests - before
    report.check("each action is done once",
                 done <= 5 if gated else done == 5, f"{done} of 5")
    outage.redis.resume()
    outage.back()
    outage.close()


def ends(report):
    """The gateway is told to end while requests wait for Redis."""

    outage = Outage(report, on_down="open")
    outage.gateway.stop()
    conf = outage.gateway.dir / "nginx.conf"
    conf.write_text(conf.read_text().replace("timeout=100ms", "timeout=9s"))
    outage.gateway.start()
    for _ in range(4):
        outage.chat()             # connections to the upstream that are kept
    before = len(outage.upstream.entries())
    outage.redis.pause()
    streams = [Stream(outage.gateway, TOKEN, "alice", "hold=2")
               for _ in range(4)]
    time.sleep(0.3)
    outage.gateway.process.send_signal(signal.SIGTERM)
    outage.gateway.process.wait(10)
    report.equal("nothing goes upstream any more",
                 len(outage.upstream.entries()), before)
    for stream in streams:
        stream.close()
    outage.close()


def waits(report):
    """The gateway is told to stop while a settlement waits for company."""

    outage = Outage(report, workers=1)
    outage.gateway.stop()
    conf = outage.gateway.dir / "nginx.conf"

    # timers fire each 9 seconds: so long it may wait

    conf.write_text("timer_resolution 9s;\n" + conf.read_text().replace(
        "timeout=100ms", "timeout=10s"))
    outage.gateway.start()

    first = Stream(outage.gateway, TOKEN, "alice")
    report.equal("one is admitted", first.status(), 200)
    outage.redis.pause()
    second = Stream(outage.gateway, TOKEN, "alice")

    # one worker takes one after the other: behind these, Redis was asked

    for _ in range(2):
        before = outage.counted()
    first.close()
    report.soon("its end", lambda: outage.counted() == before + 1, BACK)
    outage.gateway.process.send_signal(signal.SIGTERM)
    outage.gateway.process.wait(10)
    second.close()
    outage.redis.resume()
    report.soon("the one that waited is settled, the question is not",
                lambda: outage.redis.in_flight("alice") == 1, BACK)
    outage.close()


def numbers(report):
    """A state has numbers that are none of ours: nothing comes of them."""

    outage = Outage(report)
    key = "clawd:{alice}:u:alice"
    for limit in ("rpm", "tpm", "tokens_per_day", "tokens_per_month"):
        outage.redis("HSET", "clawd:user:alice", limit, 100000)
    outage.chat()
    kept = outage.redis("HGETALL", key)
    statuses = set()
    for field in ("n", "rt", "tt", "mi", "mr", "mt", "dw", "du", "mw", "mu",
                  "ep", None):
        for number in ("9223372036854774784", "-9223372036854774784"):
            outage.redis("DEL", key)
            outage.redis("HSET", key, *kept)
            outage.redis("HSET", key, *(
                [field, number] if field else
                [word for name in ("rt", "tt", "mi", "mr", "mt", "dw", "du",
                                   "mw", "mu") for word in (name, number)]))
            statuses.add(outage.chat()[0])
            statuses.add(outage.gateway.get("/v1/usage", TOKEN).status)
    report.check("all is answered", statuses <= {200, 429, 503},
                 str(sorted(statuses)))

    # broken while a request runs: what it used is settled, and done with

    outage.redis("DEL", key)
    outage.redis("HSET", key, *kept)
    outage.back()
    stream = Stream(outage.gateway, TOKEN, "alice", "hold=1 tokens=30,20")
    report.equal("a stream runs", stream.status(), 200)
    outage.redis("HSET", key, "mi", "9223372036854774784")
    stream.to_end()
    time.sleep(0.5)

    def asked():
        stats = outage.redis("INFO", "commandstats")
        return int(re.search(r"cmdstat_evalsha:calls=(\d+)", stats).group(1))

    before = asked()
    time.sleep(1.2)
    report.equal("it is not told over and over", asked(), before)
    outage.close()


def full(report):
    """No memory: nothing is admitted, what ran is settled."""

    outage = Outage(report)
    stream = Stream(outage.gateway, TOKEN, "alice", "hold=1 tokens=30,20")
    report.equal("a stream runs", stream.status(), 200)
    outage.redis("CONFIG", "SET", "maxmemory", "1mb")
    outage.refused("Redis is full")
    outage.down("oom")
    stream.to_end()
    outage.redis("CONFIG", "SET", "maxmemory", "0")
    outage.back()
    outage.exact()
    outage.close()


def readonly(report):
    """A server that became a replica."""

    outage = Outage(report)
    stream = Stream(outage.gateway, TOKEN, "alice", "hold=1 tokens=30,20")
    report.equal("a stream runs", stream.status(), 200)
    outage.redis("REPLICAOF", "127.0.0.1", free_port())
    outage.refused("Redis is read-only")
    outage.down("readonly")
    stream.to_end()
    outage.redis("REPLICAOF", "NO", "ONE")
    outage.back()
    outage.exact()
    outage.close()


def password(report):
    """The gateway's password is wrong, until Redis's is that one."""

    redis = Redis("none", ["--requirepass", "right"]).start()
    outage = Outage.of(report, redis, f"redis://127.0.0.1:{redis.port}"
                       " password=wrong-secret")
    gateway = outage.gateway

    outage.refused("a wrong password")
    outage.down("auth")
    log = gateway.error_log()
    report.check("the log tells why", "AUTH was refused" in log)
    report.check("and not the password", "wrong-secret" not in log)
    report.check("it does not fill the log", len(log.splitlines()) < 80,
                 f"{len(log.splitlines())} lines")

    client = Client(redis.port)
    client("AUTH", "right")
    client("CONFIG", "SET", "requirepass", "wrong-secret")
    client("HSET", "clawd:user:alice", "tokens_per_day", 100000)
    client("HSET", f"clawd:key:{digest(TOKEN)}", "user", "alice")
    client.close()
    report.soon("with the right one it works", lambda: outage.chat()[0] == 200,
                BACK)
    outage.close()


def permission(report):
    """The ACL user may not run scripts, until it may."""

    redis = Redis("none").start()
    admin(redis)
    redis("ACL", "SETUSER", "clawd", "reset", "on", ">secret-of-clawd",
          "~clawd:*", "&*", "+@all", "-evalsha")
    outage = Outage.of(report, redis, f"redis://127.0.0.1:{redis.port}"
                       " user=clawd password=secret-of-clawd")
    gateway = outage.gateway

    outage.refused("no permission")
    report.check("an error of class auth is counted", (gateway.metric(
        "clawdbot_redis_errors_total", **{"class": "auth"}) or 0) > 0)
    report.check("the log tells why", "(auth)" in gateway.error_log())
    redis("ACL", "SETUSER", "clawd", "+evalsha")
    report.soon("with it, it works", lambda: outage.chat()[0] == 200, BACK)
    outage.exact()
    outage.close()


def untracked(report):
    """Without the right to subscribe, changes act within a second, too."""

    redis = Redis("none").start()
    admin(redis)
    redis("ACL", "SETUSER", "clawd", "reset", "on", ">secret", "~clawd:*",
          "resetchannels", "+@all", "-subscribe", "-client|tracking")
    outage = Outage.of(report, redis, f"redis://127.0.0.1:{redis.port}"
                       " user=clawd password=secret")

    report.soon("it works", lambda: outage.chat()[0] == 200, BACK)
    redis("HSET", "clawd:user:alice", "disabled", 1)
    report.soon("blocked", lambda: outage.chat()[0] == 401, 1.5)
    redis("HSET", "clawd:user:alice", "disabled", 0)
    report.soon("unblocked", lambda: outage.chat()[0] == 200, 1.5)
    outage.close()


def away(outage, count):
    """Requests of 60 tokens while Redis is away; their statuses."""

    seen = {}
    for i in range(count):
        gateway = outage.gateways[i % len(outage.gateways)]
        status, took = outage.chat(gateway, tokens="30,30", max_tokens=30)
        seen[status] = seen.get(status, 0) + 1
        if took > PROMPT:
            seen["slow"] = took
    return seen


def local(report):
    """on_down=local: 1 + N/10 of a limit at most, and all of it charged."""

    limit = 20000
    outage = Outage(report, count=2, limit=limit, on_down="local")

    # All but the last is used up with Redis.

    while outage.chat(tokens="200,300", max_tokens=300)[0] == 200:
        pass
    report.equal("the limit is reached", outage.answer.status, 429)
    with_redis = outage.answered()
    outage.redis.kill()

    seen = away(outage, 120)
    offline = outage.answered() - with_redis
    report.check("a part is admitted without Redis",
                 0 < offline <= limit * 2 // 10,
                 f"{offline} of at most {limit * 2 // 10}: {seen}")
    report.check("1 + N/10 of the limit at most",
                 outage.answered() <= limit * 1.2,
                 f"{outage.answered() / limit:.4f}")
    report.check("then it is 429, never slow", seen.get(429, 0) > 0
                 and "slow" not in seen, str(seen))
    report.equal("a stranger is not let in", outage.chat(token="x")[0], 503)

    outage.redis.start()
    report.soon("it is back", lambda: outage.gateway.metric(
        "clawdbot_redis_up") == 1, BACK)
    outage.exact(10)
    report.equal("the limit holds again", [
        outage.chat(g, max_tokens=300)[0] for g in outage.gateways],
        [429, 429])
    outage.close()


def share(report):
    """on_down=local: the share is of what is used, not of what might be."""

    outage = Outage(report, limit=20000, on_down="local")
    outage.redis.kill()
    outage.down()
    before = outage.counted()

    # Each may need most of the share of 2000, and uses 50.

    for i in range(5):
        status = outage.chat(max_tokens=1000)[0]
        report.equal("one more passes", status, 200)

        # the next may get another worker

        wait_for("its end", lambda: outage.counted() == before + i + 1)
    outage.redis.start()
    outage.back()
    outage.exact()
    outage.close()


def open_(report):
    """on_down=open: no limits, and all of it charged."""

    outage = Outage(report, count=2, limit=2000, on_down="open")
    outage.redis.kill()
    seen = away(outage, 80)
    report.equal("all are admitted, none is slow", seen, {200: 80})
    report.check("beyond the limit", outage.answered() > 2000)
    report.equal("a stranger is not let in", outage.chat(token="x")[0], 503)
    outage.redis.start()
    report.soon("it is back", lambda: outage.gateway.metric(
        "clawdbot_redis_up") == 1, BACK)
    outage.exact(10)
    report.soon("the limit holds again", lambda: [
        outage.chat(g)[0] for g in outage.gateways] == [429, 429], BACK)
    outage.close()


def offline_restart(report):
    """What was admitted without Redis survives the gateway's restart."""

    outage = Outage(report, on_down="open")
    outage.redis.kill()
    away(outage, 20)
    outage.gateway.stop()
    outage.gateway.start()
    outage.redis.start()
    outage.back()
    outage.exact()
    outage.stays_exact()
    outage.close()


def twice(report):
    """The same file once more, as after a crash between settling and
    removing it: charges with and without a reservation are made once."""

    outage = Outage(report, on_down="open")
    stream = Stream(outage.gateway, TOKEN, "alice", "hold=1 tokens=30,20")
    report.equal("a stream runs", stream.status(), 200)
    outage.redis.kill()
    away(outage, 20)
    stream.to_end()
    outage.gateway.stop()
    kept = [(path, path.read_bytes()) for path in outage.spool()]
    report.check("usage is in the file", bool(kept))
    outage.redis.start()

    for what in ("once", "and once more"):
        print(f"       {what}")
        for path, data in kept:
            path.write_bytes(data)
        outage.gateway.start()
        outage.back()
        report.soon("the file is empty", lambda: not outage.spool(), BACK)
        outage.exact()
        outage.gateway.stop()

    report.clean(outage.gateway)


PARTS = {"late": late, "fresh": fresh, "dies": dies,
         "restarted": restarted, "killed": killed,
         "hangs": hangs, "leaves": leaves, "mute": mute,
         "mute-killed": mute_killed, "due": due,
         "orphaned": orphaned, "busy": busy, "replicas": replicas,
         "full": full, "readonly": readonly, "unix": unix, "tls": tls,
         "password": password, "permission": permission,
         "untracked": untracked, "local": local, "share": share,
         "open": open_,
         "offline": offline_restart, "twice": twice, "ends": ends,
         "waits": waits,
         "numbers": numbers,
         "left": lambda report: left(report, False),
         "left-gated": lambda report: left(report, True)}


def main():
    report = Report("outages")
    for name in sys.argv[1:] or PARTS:
        report.part(name, PARTS[name])
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
