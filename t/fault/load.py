"""Clients that ask without end, and what became of their requests.

A user's requests are random in size, streamed or not, and go to a gateway at
random.  Each outcome is noted; judge.py compares them with the upstream's log
and with what Redis says was used.
"""

import asyncio
import json
import random
import time

from harness import body_of

PATIENCE = 15


class User:
    """clients: how many ask at the same time; aborts: which part of the
    streams is left in the middle."""

    def __init__(self, name, clients, aborts=0.0, largest=400):
        self.name = name
        self.token = f"token-of-{name}"
        self.clients = clients
        self.aborts = aborts
        self.largest = largest
        self.script = ""


class Outcome:
    """status 0: no answer came; whole: the answer came to its end."""

    __slots__ = ("user", "id", "stream", "size", "asked", "status", "whole",
                 "left", "start", "end", "text", "headers")

    def __init__(self, user, number, stream, asked):
        self.user = user.name
        self.id = f"{user.name}-{number}"
        self.stream = stream
        self.asked = asked
        self.size = 0
        self.status = 0
        self.whole = False
        self.left = False
        self.text = ""
        self.headers = {}
        self.start = self.end = time.monotonic()


class Load:

    def __init__(self, gateways, users, seed):
        self.gateways = gateways
        self.users = users
        self.random = random.Random(f"load {seed}")
        self.outcomes = []
        self.over = False
        self.count = 0
        self.lag = 0.0

    def of(self, user, since=0.0):
        return [o for o in list(self.outcomes)
                if o.user == user and o.start >= since]

    async def run(self, plan):
        """Runs until plan, a coroutine, has ended; returns what it does."""

        watch = asyncio.create_task(self.watch())
        clients = [asyncio.create_task(self.client(user))
                   for user in self.users for _ in range(user.clients)]
        try:
            return await plan
        finally:
            self.over = True
            watch.cancel()
            await asyncio.wait(clients, timeout=PATIENCE)
            for client in clients:
                client.cancel()

    async def watch(self):
        """How late this machine lets the clients themselves be."""

        while True:
            start = time.monotonic()
            await asyncio.sleep(0.02)
            self.lag = max(self.lag, time.monotonic() - start - 0.02)

    async def client(self, user):
        connections = {}

        while not self.over:
            gateway = self.random.choice(self.gateways)
            connection = connections.get(gateway.port)

            self.count += 1
            outcome = Outcome(user, self.count, self.random.random() < 0.5,
                              self.random.randint(40, user.largest))
            keep = False

            # An idle connection that was closed is no request's fault.

            if connection and connection[0].at_eof():
                connection[1].close()
                connection = None

            try:
                if connection is None:
                    connection = await asyncio.open_connection(
                        "127.0.0.1", gateway.port)
                keep = await asyncio.wait_for(
                    self.ask(connection, user, outcome), PATIENCE)
            except (OSError, asyncio.IncompleteReadError, EOFError,
                    asyncio.LimitOverrunError):
                pass
            except asyncio.TimeoutError:
                outcome.text = "nothing came"

            outcome.end = time.monotonic()
            self.outcomes.append(outcome)

            if connection and not keep:
                connection[1].close()
                connection = None
            connections[gateway.port] = connection

            if outcome.status != 200:
                await asyncio.sleep(self.random.uniform(0.03, 0.15))

        for connection in connections.values():
            if connection:
                connection[1].close()

    async def ask(self, connection, user, outcome):
        """Sends one request and reads its answer; may another one follow?"""

        reader, writer = connection
        body = body_of(user.name, f"id={outcome.id} {user.script}",
                       stream=outcome.stream, max_tokens=outcome.asked,
                       size=self.random.randint(0, 200))
        outcome.size = len(body)
        outcome.start = time.monotonic()

        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
            f"Authorization: Bearer {user.token}\r\n"
            f"Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.split("\r\n")
        outcome.status = int(lines[0].split()[1])
        outcome.headers = {k.lower(): v for k, _, v in
                           (line.partition(": ") for line in lines[1:] if line)}

        leave = self.random.random() < user.aborts and outcome.stream \
            and outcome.status == 200
        data = await self.body(reader, outcome.headers, leave)

        if leave:
            outcome.left = True
            return False

        if outcome.status != 200:
            outcome.text = data.decode(errors="replace")
        else:
            outcome.whole = b"data: [DONE]" in data if outcome.stream \
                else "usage" in json.loads(data)

        return outcome.headers.get("connection") != "close"

    async def body(self, reader, headers, leave):
        if "content-length" in headers:
            return await reader.readexactly(int(headers["content-length"]))

        data = b""
        while True:
            size = int(await reader.readuntil(b"\r\n"), 16)
            data += (await reader.readexactly(size + 2))[:-2]
            if size == 0 or leave:
                return data


async def until(what, condition, timeout):
    """harness.wait_for(), while the load goes on."""

    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        await asyncio.sleep(0.05)
