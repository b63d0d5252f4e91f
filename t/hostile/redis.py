#!/usr/bin/env python3
#
# A server that speaks Redis, until it does not.  Each connection behaves in a
# way that is a function of the seed and its number: it greets well or not,
# answers for a while, and then sends what no server should.
#
#     t/hostile/redis.py N SEED [PORT]
#
# serves until N hostile replies were sent.  As a class:
#
#     fake = Redis(seed)
#     port = await fake.start()
#     fake.replies                  # hostile ones so far
#     await fake.stop()

import asyncio
import hashlib
import random
import sys
import time

ALL = 0x7fffffffffffffff

# Numbers at which sums overflow, beside any others.

EDGES = [ALL, -ALL - 1, ALL - 1, -ALL, 0, -1, 1, 1 << 62, 1 << 32]

ERRORS = [
    b"NOAUTH Authentication required.", b"WRONGPASS no", b"NOPERM no",
    b"LOADING Redis is loading", b"BUSY running a script", b"MASTERDOWN no",
    b"CLUSTERDOWN no", b"TRYAGAIN later", b"MISCONF disk", b"NOREPLICAS no",
    b"READONLY You can't write", b"OOM command not allowed", b"NOSCRIPT none",
    b"MOVED 3999 127.0.0.1:1", b"ASK 3999 127.0.0.1:1", b"CROSSSLOT no",
    b"WRONGTYPE no", b"ERR unknown command", b"ERR", b"", b"E" * 1024,
    b"ERR Error running script (call to f_1): @user_script:1: -OOM no",
    b"ERR Error running script (call to f_1): @user_script:",
    b"ERR max number of clients reached", b"EXECABORT no", b"%s%n%n%x",
]


def bulk(data):
    return b"$%d\r\n%s\r\n" % (len(data), data)


def array(*values):
    return b"*%d\r\n%s" % (len(values), b"".join(values))


def number(r):
    return r.choice(EDGES) if r.random() < 0.5 else r.randint(-ALL - 1, ALL)


# Replies within the protocol that may answer anything, each a function of a
# random source.

VALID = [
    lambda r: b"+OK\r\n",
    lambda r: b"+" + b"x" * r.randrange(1024) + b"\r\n",
    lambda r: b":%d\r\n" % number(r),
    lambda r: b"$-1\r\n",
    lambda r: b"*-1\r\n",
    lambda r: b"*0\r\n",
    lambda r: bulk(r.randbytes(r.choice([0, 1, 40, 5000, 65536]))),
    lambda r: bulk(b"run_id:" + b"f" * r.randrange(90)),
    lambda r: bulk(b"\r\nrun_id:"),
    lambda r: array(*[b":%d\r\n" % number(r)
                      for _ in range(r.choice([1, 2, 12, 15, 16, 255]))]),
    lambda r: array(b":%d\r\n" % r.randrange(6),
                    *[b":%d\r\n" % number(r)
                      for _ in range(r.choice([11, 15]))]),
    lambda r: array(*[bulk(r.randbytes(r.randrange(40)))
                      for _ in range(r.randrange(20))]),
    lambda r: array(array(array(b":1\r\n", b"$-1\r\n")), b"*0\r\n"),
    lambda r: array(b"-ERR inside\r\n", b"+OK\r\n"),
    lambda r: array(bulk(b"pong"), bulk(b"")),
    lambda r: array(bulk(b"9" * 19), bulk(b"9" * 19)),
    lambda r: array(bulk(b"-1"), bulk(b"1e9")),
    lambda r: array(bulk(b"message"), bulk(b"__redis__:invalidate"),
                    b"*-1\r\n"),
    lambda r: array(bulk(b"message"), bulk(b"__redis__:invalidate"),
                    array(b":1\r\n")),
    lambda r: array(bulk(b"message"), bulk(b"__redis__:invalidate"),
                    array(*[bulk(r.randbytes(r.randrange(300)))
                            for _ in range(r.randrange(200))])),
    lambda r: array(bulk(b"message"), bulk(b"other"), b"*-1\r\n"),
    lambda r: array(bulk(b"subscribe"), bulk(b"other"), b":1\r\n"),
]

# What no client should take for a reply.

INVALID = [
    lambda r: b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    lambda r: b"*%d\r\n" % r.choice([1025, 10 ** 8, ALL, ALL + 1]),
    lambda r: b"$%d\r\n" % r.choice([65537, 10 ** 9, ALL, ALL + 1, 10 ** 40]),
    lambda r: b"$-%d\r\n" % r.randrange(2, 99),
    lambda r: b"*-%d\r\n" % r.randrange(2, 99),
    lambda r: b"*1\r\n" * r.choice([4, 5, 100, 500000]),
    lambda r: b"*255\r\n" * 3,
    lambda r: b"$3\r\nabcd\r\n",
    lambda r: b"$3\r\nabc\n",
    lambda r: b"+OK\n",
    lambda r: b"+O\nK\r\n",
    lambda r: b"+" + b"x" * r.choice([1025, 70000]) + b"\r\n",
    lambda r: b":%d\r\n" % (ALL + r.randint(1, 99)),
    lambda r: b":+1\r\n:01\r\n",
    lambda r: b":\r\n",
    lambda r: b":1\0\r\n",
    lambda r: b"\0" * r.randrange(1, 99),
    lambda r: b"\r\n" * r.randrange(1, 9),
    lambda r: r.choice([b"%1\r\n+a\r\n+b\r\n", b"~1\r\n+a\r\n", b"_\r\n",
                        b"#t\r\n", b",1.5\r\n", b"(1\r\n", b"!3\r\nERR\r\n",
                        b"=7\r\ntxt:abc\r\n", b">2\r\n+a\r\n+b\r\n",
                        b"|1\r\n+a\r\n+b\r\n", b"$?\r\n;1\r\na\r\n;0\r\n"]),
    lambda r: array(*[bulk(b"x" * 65536)] * 5),
    lambda r: r.randbytes(r.choice([1, 10, 1000, 100000])),
    lambda r: array(b":1\r\n", b"?"),
]


def mutate(r, data):
    """A reply with a byte changed, lost, added, or cut off."""

    if not data:
        return b"\n"

    at = r.randrange(len(data))
    return r.choice([
        data[:at] + r.randbytes(1) + data[at + 1:],
        data[:at] + data[at + 1:],
        data[:at] + r.choice([b"\0", b"\r", b"\n", b"-", b"9"]) + data[at:],
        data[:at],
    ])


class Redis:

    def __init__(self, seed, limit=None):
        self.seed = seed
        self.limit = limit
        self.replies = 0
        self.good = 0
        self.connections = 0
        self.enough = asyncio.Event()
        self.tasks = set()

    async def start(self, port=0):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1",
                                                 port)
        return self.server.sockets[0].getsockname()[1]

    async def stop(self):
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        self.connections += 1
        connection = Connection(self, self.connections, reader, writer)
        task = asyncio.current_task()
        self.tasks.add(task)
        try:
            await connection.play()
        except (OSError, EOFError, ValueError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()

    def count(self):
        self.replies += 1
        if self.limit and self.replies >= self.limit:
            self.enough.set()


class Connection:

    def __init__(self, server, number, reader, writer):
        self.server = server
        self.number = number
        self.reader = reader
        self.writer = writer
        self.r = random.Random(f"{server.seed}/{number}")

        # How many commands are answered well; then hostile replies that keep
        # to the protocol, and a last one that does not.

        self.kind = self.r.choices(
            ["shapes", "greeting", "banner", "silent", "close"],
            [70, 15, 5, 5, 5])[0]
        self.well = (self.r.randrange(9) if self.kind == "greeting"
                     else self.r.randrange(9, 30))
        self.shapes = self.r.randrange(80)
        self.bytewise = self.r.random() < 0.05

    async def play(self):
        if self.kind == "banner":
            await self.hostile(self.last())
            await self.linger()
            return

        answered = 0
        while True:
            command = await self.command()
            answered += 1

            if answered <= self.well or self.greets(command):
                if answered > self.well and self.kind == "greeting":
                    break
                self.server.good += 1
                await self.send(self.answer(command))
            elif self.kind in ("silent", "close"):
                break
            elif answered <= self.well + self.shapes:
                await self.hostile(self.shape(command))
            else:
                break

        if self.kind == "silent":
            self.server.count()
            await asyncio.sleep(self.r.uniform(0.1, 1))
        elif self.kind == "close":
            self.server.count()
            data = self.answer(command)
            await self.send(data[:self.r.randrange(len(data))])
        else:
            await self.hostile(self.last())
            await self.linger()

    @staticmethod
    def greets(command):
        return command[0].upper() in (b"AUTH", b"SELECT", b"SCRIPT", b"INFO",
                                      b"TIME", b"CLIENT", b"SUBSCRIBE")

    async def command(self):
        line = await self.reader.readuntil(b"\r\n")
        if line[:1] != b"*":
            raise ValueError(line)

        words = []
        for _ in range(int(line[1:])):
            size = int((await self.reader.readuntil(b"\r\n"))[1:])
            words.append((await self.reader.readexactly(size + 2))[:-2])

        return words

    def answer(self, command):
        """What a good server says."""

        word = command[0].upper()
        second = command[1].upper() if len(command) > 1 else b""

        if word == b"SCRIPT":
            if second == b"EXISTS":
                return array(b":1\r\n")
            return bulk(hashlib.sha1(command[2]).hexdigest().encode())
        if word == b"INFO":
            return bulk(b"# Server\r\nredis_version:7.0.15\r\nrun_id:"
                        + b"0123456789" * 4 + b"\r\n" + b"x:y\r\n" * 500)
        if word == b"TIME":
            return array(*(bulk(b"%d" % n) for n in
                           divmod(time.time_ns() // 1000, 1000000)))
        if word == b"CLIENT" and second == b"ID":
            return b":7\r\n"
        if word == b"SUBSCRIBE":
            self.subscribed = True
            return array(bulk(b"subscribe"), bulk(command[1]), b":1\r\n")
        if word == b"PING":
            if getattr(self, "subscribed", False):
                return array(bulk(b"pong"), bulk(b""))
            return b"+PONG\r\n"
        if word == b"HGETALL":
            if command[1].startswith(b"clawd:key:"):
                return array(bulk(b"user"), bulk(b"alice"))
            return array(bulk(b"tokens_per_day"), bulk(b"1000000"))
        if word == b"EVALSHA":
            # of RESERVE, SETTLE and BEAT, by what they are asked
            now = time.time_ns() // 1000
            usage = [0, now] + [self.r.randrange(10 ** 6) for _ in range(9)]
            args = len(command) - 6
            # of the riders that go with a RESERVE, some are settled
            settled = self.r.randrange(1 << max(0, args - 14) // 6)
            told = ([1, 0, now, 1] + usage + [settled] if args >= 14 else
                    [1] + usage if args >= 10 else [0])
            return array(*[b":%d\r\n" % n for n in told])
        return b"+OK\r\n"

    def shape(self, command):
        """A reply, but not to this question."""

        which = self.r.random()
        if which < 0.25:
            return b"-" + self.r.choice(ERRORS) + b"\r\n"
        if which < 0.3:
            return self.answer(command) + self.answer(command)
        return self.r.choice(VALID)(self.r)

    def last(self):
        """What ends the connection, or should."""

        which = self.r.random()
        if which < 0.5:
            return self.r.choice(INVALID)(self.r)
        if which < 0.6:
            return self.r.choice(VALID)(self.r) * self.r.randrange(2, 300)
        if which < 0.65:
            return b"-" + self.r.choice(ERRORS) + b"\r\n"
        return mutate(self.r, self.r.choice(VALID)(self.r))

    async def hostile(self, data):
        self.server.count()
        await self.send(data)

    async def send(self, data):
        if self.bytewise and len(data) < 3000:
            for i in range(len(data)):
                self.writer.write(data[i:i + 1])
                await self.writer.drain()
                await asyncio.sleep(0)
            return

        cut = self.r.randrange(len(data) + 1) if self.r.random() < 0.3 else 0
        if cut:
            self.writer.write(data[:cut])
            await self.writer.drain()
            await asyncio.sleep(0.001)
        self.writer.write(data[cut:])
        await self.writer.drain()

    async def linger(self):
        """Until the client has gone, or a while."""

        try:
            await asyncio.wait_for(self.reader.read(), 1)
        except asyncio.TimeoutError:
            pass


async def serve(count, seed, port):
    fake = Redis(seed, count)
    print(f"port {await fake.start(port)}, seed {seed}", flush=True)
    await fake.enough.wait()
    await fake.stop()
    print(f"{fake.replies} hostile replies and {fake.good} good ones on "
          f"{fake.connections} connections, seed {seed}")


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[1:] + ["0"]]
    asyncio.run(serve(*numbers[:3]))
