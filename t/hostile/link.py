#!/usr/bin/env python3
#
# A hostile Redis against the link, in an NGINX under ASAN and UBSAN, and then
# a good one in its place; README.md tells what must hold.
#
#     t/hostile/link.py [N [SEED]]
#
# Plays until N (10,000) hostile replies were sent.  Ends with "N passed, N
# failed".

import asyncio
import hashlib
import os
import random
import re
import subprocess
import sys
import time

from nginx import Nginx
from redis import Redis

WORKERS = 4
CLIENTS = 24
SECONDS = 600

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
    access_log off;

    clawd_zone clawd:2m;
    clawd_redis redis://u:p@127.0.0.1:{redis}/1 on_down=open timeout=200ms;
    clawd_state {dir}/state;
    clawd_token static-token user=carol;
    clawd_quota default rpm=1000000 tokens_per_day=1000000000;

    server {{
        listen 127.0.0.1:{port};
        location / {{ clawd_pass http://127.0.0.1:{upstream}; }}
    }}
    server {{
        listen 127.0.0.1:{metrics};
        location = /metrics {{ clawd_metrics; }}
    }}
}}
"""

BODY = (b'{"model":"m","max_tokens":9,"messages":'
        b'[{"role":"user","content":"hello"}]}')

ANSWER = (b'{"object":"chat.completion","model":"m","choices":[{"index":0,'
          b'"finish_reason":"stop","message":{"role":"assistant","content":"x"'
          b'}}],"usage":{"prompt_tokens":1,"completion_tokens":1,'
          b'"total_tokens":2}}')


async def upstream(reader, writer):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(size.group(1)) if size else 0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\nConnection: close\r\n\r\n%s"
                     % (len(ANSWER), ANSWER))
        await writer.drain()
    except (OSError, EOFError):
        pass
    finally:
        writer.close()


async def ask(port, token, path=b"/v1/chat/completions"):
    """The status of one request; 0 when there is none in time."""

    post = b"POST" if path.endswith(b"completions") else b"GET"
    body = BODY if post == b"POST" else b""
    writer = None
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"%s %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                         b"Authorization: Bearer %s\r\nContent-Length: %d\r\n"
                         b"Content-Type: application/json\r\n\r\n%s"
                         % (post, path, token, len(body), body))
            data = await reader.read()
            return int(data.split()[1])
    except (OSError, EOFError, IndexError, ValueError, TimeoutError):
        return 0
    finally:
        if writer:
            writer.close()


class Link:

    def __init__(self, count, seed):
        self.count = count
        self.seed = seed
        self.statuses = {}
        self.admitted = 0
        self.passed = 0
        self.failed = 0

    async def play(self):
        self.fake = Redis(self.seed, self.count)
        self.redis_port = await self.fake.start()
        server = await asyncio.start_server(upstream, "127.0.0.1", 0)

        self.nginx = Nginx((0, 0), CONFIG, WORKERS, redis=self.redis_port,
                           upstream=server.sockets[0].getsockname()[1])
        self.good = None
        try:
            await asyncio.to_thread(self.nginx.start)
            await self.hostile()
            await self.cured()
            self.living = self.nginx.workers()
        finally:
            await asyncio.to_thread(self.nginx.stop)
            server.close()
            if self.good:
                self.good.kill()
                self.good.wait()

        self.judge()

    async def hostile(self):
        start = time.monotonic()
        tasks = [asyncio.create_task(self.client(n)) for n in range(CLIENTS)]
        memory = asyncio.create_task(self.memory())
        try:
            async with asyncio.timeout(SECONDS):
                await self.fake.enough.wait()
        except TimeoutError:
            pass

        self.seconds = time.monotonic() - start
        self.lines = len(re.findall(r': Redis "', self.nginx.error_log()))
        self.after = self.rss()
        for task in tasks + [memory]:
            task.cancel()
        await asyncio.gather(*tasks, memory, return_exceptions=True)
        await self.fake.stop()

    async def client(self, n):
        r = random.Random(f"{self.seed}/client/{n}")
        while True:
            token = r.choice([b"static-token", b"token-1",
                              b"token-%d" % r.randrange(9999)])
            path = r.choice([b"/v1/chat/completions"] * 4 + [b"/v1/usage"])
            status = await ask(self.nginx.port, token, path)
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status == 200 and token != b"static-token" \
                    and path != b"/v1/usage":
                self.admitted += 1

    async def memory(self):
        """What the workers have after a third of the replies."""

        while self.fake.replies < self.count / 3:
            await asyncio.sleep(0.1)
        self.before = self.rss()

    def rss(self):
        pages = [int(open(f"/proc/{pid}/statm").read().split()[1])
                 for pid in self.nginx.workers()]
        return sum(pages) * os.sysconf("SC_PAGESIZE") >> 20

    async def cured(self):
        """A real server in the place of the hostile one."""

        self.good = subprocess.Popen(
            ["redis-server", "--port", str(self.redis_port), "--bind",
             "127.0.0.1", "--save", "", "--dir", str(self.nginx.dir),
             "--user", "u", "on", ">p", "~*", "&*", "+@all"], stdout=subprocess.DEVNULL)

        digest = hashlib.sha256(b"token-of-bob").hexdigest()
        pairs = [f"HSET clawd:key:{digest} user bob", "HSET clawd:user:bob "
                 "tokens_per_day 1000"]
        for pair in pairs:
            for _ in range(100):
                done = subprocess.run(
                    ["redis-cli", "-p", str(self.redis_port), "--user", "u",
                     "--pass", "p", "--no-auth-warning", "-n", "1",
                     *pair.split()], capture_output=True)
                if done.stdout.strip().isdigit():
                    break
                await asyncio.sleep(0.1)

        start = time.monotonic()
        self.back = None
        while time.monotonic() - start < 10:
            if await ask(self.nginx.port, b"token-of-bob") == 200 \
                    and "clawdbot_redis_up 1" in self.nginx.page():
                self.back = time.monotonic() - start
                break
            await asyncio.sleep(0.05)

    def judge(self):
        log = self.nginx.error_log()
        bad = re.findall(r".*\[(?:alert|emerg|crit)\].*", log)
        fake = self.fake

        self.check(f"{self.count} hostile replies were sent",
                   fake.replies >= self.count, f"{fake.replies}")
        self.check("no worker ended", self.living == self.nginx.born,
                   f"{self.nginx.born} became {self.living}")
        self.check("no alert in the error log", not bad, "\n".join(bad[:5]))
        reports = self.nginx.reports()
        self.check("no sanitizer report", not reports,
                   "\n".join(r[:6000] for r in reports[:3]))
        self.check("a good answer to a question admits", self.admitted)
        self.check("every request ends", not self.statuses.get(0),
                   f"{self.statuses.get(0)} did not")
        self.check("the workers' memory is flat",
                   self.after <= self.before * 1.25 + 8,
                   f"{self.before} MB, then {self.after} MB")
        self.check("about a line a second in the log",
                   self.lines <= self.seconds * 1.5 + 10,
                   f"{self.lines} lines in {self.seconds:.0f} s")
        self.check("a good server is used at once", self.back is not None)

        print(f"{fake.replies} hostile replies and {fake.good} good ones on "
              f"{fake.connections} connections in {self.seconds:.0f} s, "
              f"answers {dict(sorted(self.statuses.items()))}, "
              f"{self.before} to {self.after} MB, {self.lines} lines, "
              f"seed {self.seed}")
        if self.failed:
            print(f"files kept in {self.nginx.dir}")
            print(f"replay: tools/hostile.sh link {self.count} {self.seed}")
        else:
            self.nginx.remove()
        print(f"link: {self.passed} passed, {self.failed} failed")

    def check(self, promise, good, detail=""):
        if good:
            self.passed += 1
            print(f"ok     {promise}")
        else:
            self.failed += 1
            print(f"FAILED {promise}: {detail}")


def main():
    count, seed = (int(a) for a in (sys.argv[1:] + ["10000", "1"][
        len(sys.argv) - 1:])[:2])
    link = Link(count, seed)
    asyncio.run(link.play())
    return 1 if link.failed else 0


if __name__ == "__main__":
    sys.exit(main())
