"""The client: sends a case and reads what comes as strictly as it can be."""

import asyncio
import re

from case import MARK

# Longer than every timeout of the configuration together.

PATIENCE = 25


class Malformed(Exception):
    """The bytes are no HTTP/1.1 answer."""


async def play(case, port):
    """Sends the case: (all bytes that came, did the server end it)."""

    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b"", False

    came = bytearray()

    async def send():
        data = case.raw[:case.abort_at] if case.abort else case.raw
        try:
            for at in range(0, len(data), case.step):
                writer.write(data[at:at + case.step])
                await writer.drain()
        except ConnectionError:
            pass

    async def receive():
        try:
            while data := await reader.read(65536):
                came.extend(data)
        except ConnectionError:
            pass

    try:
        if case.abort:
            await send()
            try:
                await asyncio.wait_for(receive(), case.abort_after)
            except asyncio.TimeoutError:
                pass
            writer.transport.abort()
            return bytes(came), True

        sending = asyncio.ensure_future(send())
        try:
            await asyncio.wait_for(receive(), PATIENCE)
            return bytes(came), True
        except asyncio.TimeoutError:
            return bytes(came), False
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    finally:
        writer.close()


def foreign(case, data):
    """The marks of other cases in the data.

    A broken request whose mark NGINX did not see gets an answer without one,
    numbered 0.
    """

    own = {case.number, 0} if case.broken else {case.number}
    return {int(n) for n in MARK.findall(data)} - own


def answers(data, bodiless):
    """Counts the whole answers in the data, interim ones apart.

    bodiless: the answers are to HEAD.  Raises Malformed.  An answer that was
    cut counts as one, and nothing can follow it.
    """

    count = 0

    while data:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            if not b"HTTP/1.1 ".startswith(data[:9]) \
                    and not data.startswith(b"HTTP/1.1 "):
                raise Malformed(f"no status line: {data[:80]!r}")
            return count + 1

        status, headers = read_head(head)

        if status == 100:
            data = rest
            continue

        if 101 <= status < 200:
            raise Malformed(f"status {status}")

        count += 1
        if bodiless or status in (204, 304):
            data = rest
        else:
            data = after_body(headers, rest)

    return count


def read_head(head):
    lines = head.split(b"\r\n")
    status = re.fullmatch(rb"HTTP/1\.1 (\d\d\d)(?: [^\x00-\x1f\x7f]*)?",
                          lines[0])
    if not status:
        raise Malformed(f"status line {lines[0][:80]!r}")

    headers = {}

    for line in lines[1:]:
        if not re.fullmatch(rb"[^\x00-\x20\x7f:]+:[^\x00\r\n]*",
                            line):
            raise Malformed(f"header line {line[:80]!r}")

        name, _, value = line.partition(b":")
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding") \
                and name in headers:
            raise Malformed(f"two {name.decode()}")
        if name in (b"keep-alive", b"upgrade", b"proxy-connection"):
            raise Malformed(f"hop header {line[:80]!r}")
        headers[name] = value.strip()

    if b"content-length" in headers and b"transfer-encoding" in headers:
        raise Malformed("two framings")

    return int(status.group(1)), headers


def after_body(headers, data):
    """What follows the body; nothing if the connection was cut in it."""

    if b"content-length" in headers:
        return data[int(headers[b"content-length"]):]

    if b"transfer-encoding" not in headers:
        return b""

    if headers[b"transfer-encoding"] != b"chunked":
        raise Malformed("a transfer encoding that was not asked for")

    while True:
        line, end, rest = data.partition(b"\r\n")
        if not end:
            if not re.fullmatch(rb"[0-9a-fA-F]*\r?", line):
                raise Malformed(f"chunk size {line[:40]!r}")
            return b""
        if not re.fullmatch(rb"[0-9a-fA-F]+", line):
            raise Malformed(f"chunk size {line[:40]!r}")

        size = int(line, 16)
        tail = rest[size:size + 2]
        if not b"\r\n".startswith(tail):
            raise Malformed(f"no end of a chunk: {tail!r}")
        if len(tail) < 2:
            return b""

        data = rest[size + 2:]
        if size == 0:
            return data
