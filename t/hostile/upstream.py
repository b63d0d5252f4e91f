"""The upstream: answers each case, and notes what it should not have got."""

import asyncio
import json
import re

from case import MARK, SECRETS, Answer

# What the gate lets through, and nothing else.

ROUTES = re.compile(rb"(POST) /(v1/(chat/completions|completions|responses"
                    rb"|messages|embeddings)|api/(chat|generate|embed"
                    rb"|embeddings|show))|(GET|HEAD) /(v1/models(/[^/]*)?"
                    rb"|api/(tags|ps|version))?|(POST|GET) "
                    rb"/(v1/messages/count_tokens|tokenize|detokenize)")


class Upstream:

    def __init__(self, seed, samples):
        self.seed = seed
        self.samples = samples
        self.faults = []
        self.posts = {}
        self.requests = 0
        self.tasks = set()

    async def start(self):
        """Two listeners: connections that are kept, and wild ones."""

        servers = []
        for wild in (False, True):
            servers.append(await asyncio.start_server(
                lambda r, w, wild=wild: self.serve(r, w, wild), "127.0.0.1",
                0))
        self.servers = servers
        return [s.sockets[0].getsockname()[1] for s in servers]

    async def stop(self):
        for server in self.servers:
            server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader, writer, wild):
        self.tasks.add(asyncio.current_task())

        try:
            while await self.answer(reader, writer, wild):
                pass
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(asyncio.current_task())
            writer.close()

    async def answer(self, reader, writer, wild):
        """Takes one request and answers it; is the connection to be kept?"""

        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as e:
            if e.partial:
                self.note(-1, "half a request head", e.partial)
            return False

        number, body = await self.check(head, reader)
        if number is None:
            return False

        answer = Answer(self.seed, number, b"@@%07d@@" % number, self.samples,
                        wild)
        if answer.silent:
            await reader.read(1)
            return False

        data = answer.data
        if head.startswith(b"HEAD "):
            data = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        data = data[:answer.cut]

        for at in range(0, len(data), answer.step):
            writer.write(data[at:at + answer.step])
            await writer.drain()
            if answer.step < 1000:
                await asyncio.sleep(0)

        if answer.reset and answer.close:
            writer.transport.abort()

        return not (answer.close or wild)

    async def check(self, head, reader):
        """Reads a request as strictly as it can be: (case number, body)."""

        lines = head[:-4].split(b"\r\n")
        names = [line.partition(b":")[0].lower() for line in lines[1:]]
        values = dict(zip(names, (line.partition(b":")[2].strip()
                                  for line in lines[1:])))
        mark = MARK.search(values.get(b"x-case", b""))
        number = int(mark.group(1)) if mark else 0
        self.requests += 1

        if re.search(rb"(?<!\r)\n|\r(?!\n)|\0", head):
            self.note(number, "bare line breaks in a request head", head)
        route = lines[0].rpartition(b" ")[0]
        if not ROUTES.fullmatch(route):
            self.note(number, "a route that is not served", head)
        for name in (b"authorization", b"x-api-key", b"cookie",
                     b"transfer-encoding", b"expect", b"upgrade",
                     b"x-injected"):
            if name in names:
                self.note(number, f"a header {name.decode()}", head)
        if names.count(b"content-length") > 1:
            self.note(number, "two lengths", head)

        length = values.get(b"content-length", b"0")
        if not re.fullmatch(rb"\d+", length):
            self.note(number, "a length that is no number", head)
            return None, b""

        try:
            body = await reader.readexactly(int(length))
        except asyncio.IncompleteReadError:

            # The client went away, and NGINX with it.

            return None, b""

        if any(secret in head + body for secret in SECRETS):
            self.note(number, "a secret of the client", head + body)

        if route.startswith(b"POST "):
            self.posts[number] = self.posts.get(number, 0) + 1
            self.check_json(number, body)
        elif body:
            self.note(number, "a body where none belongs", head + body)

        return number, body

    def check_json(self, number, body):
        def members(pairs):
            return [name.casefold() for name, _ in pairs], pairs

        try:
            names, _ = json.loads(body.decode("utf-8", "surrogateescape"),
                                  object_pairs_hook=members)
        except (ValueError, TypeError, RecursionError) as e:
            self.note(number, f"a body that is no JSON object: {e}", body)
            return

        if names.count("model") != 1 or len({"stream"} & set(names)) \
                != names.count("stream"):
            self.note(number, "not one model or two streams", body)

    def note(self, number, text, data):
        self.faults.append((number, f"the upstream got {text}: "
                                    f"{bytes(data[:300])!r}"))
