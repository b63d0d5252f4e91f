"""The scripted upstream: a model server that notes what it did.

    upstream.py PORT LOG

A request's text begins with "@NAME WORDS @": who asks, and what to do:

    hold=SECONDS   stays alive so long before the last event
    fast           answers at once
    tokens=P,C     the usage to report; else random, at most what was asked for

For each request LOG gets a line at its start and one at its end, with the
monotonic clock.  The end is noted before the last bytes are written, and a
start behind every end that happened before it, so that who counts live
requests by this log never counts one too many.
"""

import asyncio
import json
import random
import re
import sys
import time

SCRIPT = re.compile(rb"@(\S+) ([^@]*)@")


class Upstream:

    def __init__(self, log):
        self.log = open(log, "a", buffering=1)
        self.count = 0
        self.random = random.Random(1)

    def note(self, **entry):
        self.log.write(json.dumps(entry) + "\n")

    async def serve(self, reader, writer):
        early = b""
        try:
            while early is not None:
                early = await self.request(reader, writer, early)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def request(self, reader, writer, early):
        """Answers one request; what was read of the next, or None."""

        head = early + await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        body = await reader.readexactly(int(size.group(1)) if size else 0)

        # Ends that came before are handled before.

        for _ in range(4):
            await asyncio.sleep(0)

        self.count += 1
        number = self.count
        plan = self.plan(body)
        self.note(n=number, user=plan["user"], id=plan["id"],
                  start=time.monotonic(), tokens=sum(plan["usage"]))

        gone = asyncio.ensure_future(reader.read(1))
        told = False

        def finish(whole):
            nonlocal told
            if not told:
                told = True
                self.note(n=number, end=time.monotonic(), whole=whole)

        try:
            await self.answer(writer, plan, gone, finish)
        except ConnectionError:
            pass
        finally:
            finish(False)

        gone.cancel()
        try:
            return await gone or None
        except asyncio.CancelledError:
            return b""

    def plan(self, body):
        match = SCRIPT.search(body)
        words = match.group(2).decode().split() if match else []
        given = dict(word.partition("=")[::2] for word in words)

        try:
            asked = json.loads(body)
        except ValueError:
            asked = {}

        most = asked.get("max_tokens") or asked.get("max_completion_tokens") \
            or 100
        usage = (self.random.randint(1, max(1, len(body) // 4)),
                 self.random.randint(1, most))
        if "tokens" in given:
            usage = tuple(map(int, given["tokens"].split(",")))

        if "hold" in given:
            time_ = float(given["hold"])
        elif "fast" in given:
            time_ = 0
        else:
            time_ = self.random.uniform(0.005, 0.06)

        return {"user": match.group(1).decode() if match else "-",
                "id": given.get("id", ""), "usage": usage, "time": time_,
                "stream": bool(asked.get("stream")),
                "tell": (asked.get("stream_options") or {})
                .get("include_usage")}

    async def answer(self, writer, plan, gone, finish):
        prompt, completion = plan["usage"]
        usage = {"prompt_tokens": prompt, "completion_tokens": completion,
                 "total_tokens": prompt + completion}

        if not plan["stream"]:
            if await left(gone, plan["time"]):
                return
            body = json.dumps({
                "id": "c", "object": "chat.completion", "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "message":
                             {"role": "assistant", "content": "words"}}],
                "usage": usage}).encode()
            finish(True)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json"
                         b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            return

        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n")

        # No more events than tokens: who counts them counts no token twice.

        events = min(5, completion)
        for _ in range(events):
            writer.write(event({"delta": {"content": "word "}}))
            await writer.drain()
            if await left(gone, plan["time"] / events):
                return

        writer.write(event({"delta": {}, "finish_reason": "stop"}))
        finish(True)
        if plan["tell"]:
            writer.write(event(None, usage))
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()


def event(choice, usage=None):
    data = {"id": "c", "object": "chat.completion.chunk", "model": "m",
            "choices": [dict(choice, index=0)] if choice else []}
    if usage:
        data["usage"] = usage
    return chunk(b"data: %s\n\n" % json.dumps(data).encode())


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


async def left(gone, seconds):
    """Waits; has the other side gone meanwhile?"""

    if seconds > 0:
        await asyncio.wait([gone], timeout=seconds)
    return gone.done() and not gone.result()


async def main():
    upstream = Upstream(sys.argv[2])
    server = await asyncio.start_server(upstream.serve, "127.0.0.1",
                                        int(sys.argv[1]), backlog=1024)
    async with server:
        await server.serve_forever()


asyncio.run(main())
