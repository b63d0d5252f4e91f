#!/usr/bin/env python3
"""The link to Redis, where one worker is in trouble and others are not.

    link.py [PART ...]
"""

import os
import re
import signal
import socket
import sys
import threading
import time

import harness
from harness import (Gateway, Redis, Report, Stream, Upstream, noon_zone,
                     wait_for)

# An answer in time is one within this, in seconds.

harness.REDIS_TIMEOUT = 0.5

# The link tries again at least that often.

BACK = 7.0

TOKEN = "token-of-alice"

CONNECTIONS = "worker_connections 64"
NOT_ENOUGH = "64 worker_connections are not enough"


class Link:

    def __init__(self, report, change=("", ""), **options):
        self.report = report
        self.redis = self.server()
        self.upstream = Upstream()
        self.gateway = Gateway(self.upstream, self.redis, **options)
        self.configure(*change)
        self.gateway.start()
        wait_for("the first answer", lambda: self.status() == 200)

    @staticmethod
    def server():
        redis = Redis().start()
        redis.user("alice", TOKEN, tokens_per_day=100000, tz=noon_zone())
        return redis

    def configure(self, old, new):
        conf = self.gateway.dir / "nginx.conf"
        conf.write_text(conf.read_text().replace(old, new))

    def status(self):
        try:
            return self.gateway.chat(TOKEN, script="fast tokens=1,1",
                                     user="alice").status
        except OSError:  # a worker without connections drops it
            return 0

    def answers(self, what):
        self.report.soon(what, lambda: self.status() == 200, BACK)

    def close(self):
        self.gateway.stop()
        self.report.clean(self.gateway)


def stopped(report):
    """A worker that stood still finds an answer that had come in time."""

    link = Link(report, workers=1)
    statuses = []

    for _ in range(3):
        link.answers("it answers")
        link.redis("CLIENT", "PAUSE", 250)
        asker = threading.Thread(target=lambda: statuses.append(link.status()))
        asker.start()
        time.sleep(0.1)

        worker, = link.gateway.workers()
        os.kill(worker, signal.SIGSTOP)
        time.sleep(0.7)
        os.kill(worker, signal.SIGCONT)
        asker.join()

    report.equal("answers that came in time are taken", statuses, [200] * 3)
    link.close()


def moved(report):
    """Workers that end their streams have the Redis of the old configuration:
    it is dead, which the new ones must not mind."""

    link = Link(report, workers=1, change=("timeout 5s", "timeout 30s"))
    stream = Stream(link.gateway, TOKEN, "alice", "hold=60")
    report.equal("a stream runs", stream.status(), 200)

    link.redis.kill()
    report.soon("Redis is down", lambda: link.status() == 503)
    other = link.server()

    link.configure(f":{link.redis.port}/", f":{other.port}/")
    link.gateway.reload()
    wait_for("a worker that ends", lambda: len(link.gateway.workers()) == 1
             and len(link.gateway.workers(old=True)) == 2)

    link.answers("the new Redis is used")
    statuses = []
    end = time.monotonic() + 3
    while time.monotonic() < end:
        statuses.append(link.status())
    report.equal("and stays in use", set(statuses), {200})
    report.equal("while the old worker is there",
                 len(link.gateway.workers(old=True)), 2)
    stream.close()
    link.close()


def full(report):
    """A worker whose clients have all of its connections can't connect: it
    leaves that to another, and tells nobody that Redis is down."""

    link = Link(report, change=("worker_connections 1024", CONNECTIONS))
    first, second = link.gateway.workers()

    os.kill(second, signal.SIGSTOP)
    link.redis.kill()
    report.soon("the first worker knows that Redis is down",
                lambda: "does not serve" in link.gateway.error_log())

    # its second try is the one for all

    counted = link.gateway.metric("clawdbot_redis_errors_total",
                                  **{"class": "connect"})
    wait_for("more tries", lambda: link.gateway.metric(
        "clawdbot_redis_errors_total", **{"class": "connect"}) > counted + 5)
    clients = [socket.create_connection(("127.0.0.1", link.gateway.port))
               for _ in range(100)]
    for client in clients:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
    report.soon("it has no connection left", lambda: NOT_ENOUGH
                in link.gateway.error_log())
    os.kill(second, signal.SIGCONT)
    link.redis.start()
    link.redis.user("alice", TOKEN, tokens_per_day=100000, tz=noon_zone())

    # the first worker accepts what it then drops: Redis tells who is there,
    # with the last word of the greeting

    report.soon("the second worker connects", lambda: "cmd=time"
                in link.redis("CLIENT", "LIST"), BACK)
    for client in clients:
        client.close()
    link.answers("both answer")
    link.gateway.stop()
    report.equal("nothing grave but what was to be", [
        line for line in link.gateway.grave() if NOT_ENOUGH not in line], [])


def crowded(report):
    """Redis has as many clients as it may, and one worker is not among them:
    the breaker is not for the other one."""

    link = Link(report)
    guest = harness.Client(link.redis.port)

    def links():
        return [line for line in guest("CLIENT", "LIST").splitlines()
                if re.search(r"cmd=(time|evalsha)", line)]

    report.soon("two links", lambda: len(links()) == 2)
    guest("CONFIG", "SET", "maxclients",
          len(guest("CLIENT", "LIST").splitlines()))
    guest("CLIENT", "KILL", "ID", re.search(r"id=(\d+)", links()[0]).group(1))
    crowd = harness.Client(link.redis.port)

    def errors():
        return sum(link.gateway.metric("clawdbot_redis_errors_total",
                                       **{"class": c}) or 0
                   for c in ("connect", "loading"))

    before = errors()
    wait_for("tries of one", lambda: errors() >= before + 7, pause=0.05)

    # each worker is asked, while the other stands still

    statuses = []
    for pid in link.gateway.workers():
        os.kill(pid, signal.SIGSTOP)
        statuses.append(link.status())
        os.kill(pid, signal.SIGCONT)

    report.equal("the other one refuses nothing", sorted(statuses), [200, 503])
    crowd.close()
    guest.close()
    link.close()


class Cutter:
    """Stands before a Redis, and cuts each connection that was greeted."""

    def __init__(self, redis):
        self.redis = redis
        self.port = harness.free_port()
        self.cut = 0
        self.server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            client = self.server.accept()[0]
            threading.Thread(target=self.play, args=(client,),
                             daemon=True).start()

    def play(self, client):
        with client, socket.create_connection(
                ("127.0.0.1", self.redis.port)) as server:
            back = threading.Thread(target=self.relay, args=(server, client))
            back.start()
            for data in iter(lambda: client.recv(65536), b""):
                server.sendall(data)
                if b"TIME" in data or b"SUBSCRIBE" in data:
                    break
            time.sleep(0.05)
            self.cut += 1
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    @staticmethod
    def relay(server, client):
        for data in iter(lambda: server.recv(65536), b""):
            client.sendall(data)


def cut(report):
    """A server that greets well and then closes: it is not asked in a loop,
    and the log says what is wrong."""

    redis = Redis().start()
    cutter = Cutter(redis)
    gateway = Gateway(Upstream(), redis, workers=1,
                      link=f"redis://127.0.0.1:{cutter.port}")
    gateway.start()
    wait_for("the first cut", lambda: cutter.cut)
    report.soon("the log says so", lambda: "the connection was closed"
                in gateway.error_log())

    start = cutter.cut
    time.sleep(5)
    report.check("a few tries a second", cutter.cut - start < 30,
                 f"{cutter.cut - start} in 5 s")
    gateway.stop()
    report.clean(gateway)


PARTS = {"crowded": crowded, "cut": cut, "stopped": stopped, "moved": moved, "full": full}


def main():
    report = Report("link")
    for name in sys.argv[1:] or PARTS:
        report.part(name, PARTS[name])
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
