#!/usr/bin/env python3
#
# Hostile requests against hostile answers, through an NGINX under ASAN and
# UBSAN; README.md tells what must hold.
#
#     t/hostile/run.py N SEED [FIRST]
#
# Plays the cases FIRST (1) to FIRST + N - 1 of the seed, a few at a time.
# Ends with "N passed, N failed", where each promise counts as one.

import asyncio
import re
import shutil
import subprocess
import sys
from collections import Counter

import client
from case import Case, fixtures
from nginx import Nginx
from upstream import Upstream

AT_ONCE = 24
SHOWN = 5


class Run:

    def __init__(self, count, seed, first):
        self.count = count
        self.seed = seed
        self.numbers = range(first, first + count)
        self.passed = 0
        self.failed = 0

        # Breaches by promise: lists of (case number, text).

        self.foreign = []
        self.malformed = []
        self.endless = []
        self.counts = []

    async def play(self):
        self.upstream = Upstream(self.seed, fixtures())
        self.nginx = Nginx(await self.upstream.start())

        try:
            await asyncio.to_thread(self.nginx.start)
            cases = iter(self.numbers)
            self.sent = {}
            await asyncio.gather(*(self.clients(cases)
                                   for _ in range(AT_ONCE)))
            await self.settled()
            self.living = self.nginx.workers()
            self.metrics = await asyncio.to_thread(self.nginx.page)
        finally:
            if hasattr(self.nginx, "process"):
                await asyncio.to_thread(self.nginx.stop)
            await self.upstream.stop()

        self.judge()

    async def clients(self, numbers):
        for number in numbers:
            case = Case(self.seed, number)
            data, ended = await client.play(case, self.nginx.port)
            self.judge_case(case, data, ended)

    async def settled(self):
        """Waits until nothing is in flight, or as long as is reasonable."""

        for _ in range(100):
            self.in_flight = await asyncio.to_thread(self.nginx.in_flight)
            if self.in_flight == 0:
                return
            await asyncio.sleep(0.1)

    def judge_case(self, case, data, ended):
        number = case.number
        others = client.foreign(case, data)
        whole = None

        if others:
            self.foreign.append((number, f"bytes of {sorted(others)}"))
        if not ended:
            self.endless.append((number, f"no end: {data[-200:]!r}"))

        # What a broken request asked for cannot be told: HEAD has no body,
        # HTTP/0.9 no head.

        if not case.broken:
            try:
                whole = client.answers(data, case.method == b"HEAD")
            except client.Malformed as e:
                self.malformed.append((number, str(e)))

        self.sent[number] = (case, whole)

    def judge_log(self):
        """A line for each request, and as many requests upstream at most."""

        lines = Counter()
        missing = []
        unmarked = 0
        for line in self.nginx.access_log().splitlines():
            mark = re.match(r"@@(\d{7})@@ ", line)
            if mark:
                lines[int(mark.group(1))] += 1
            else:
                unmarked += 1

        for number, (case, whole) in self.sent.items():
            logged = lines[number]

            if not case.broken and logged > case.copies:
                self.counts.append((number, f"{logged} log lines for "
                                            f"{case.copies} requests"))
            if whole is not None and logged < whole:
                missing += [(number, f"{logged} log lines for "
                                     f"{whole} answers")]

            # error_page @again sends a request once more, on purpose.

            posts = self.upstream.posts.get(number, 0)
            tries = 2 if case.server == "paged" else 1
            if posts > logged * tries:
                self.counts.append((number, f"{posts} upstream requests for "
                                            f"{logged} log lines"))

        # A request whose head NGINX did not understand is logged without its
        # mark.

        if len(missing) > unmarked:
            self.counts += missing

    def judge(self):
        log = self.nginx.error_log()
        bad = re.findall(r".*\[(?:alert|emerg|crit)\].*", log)
        promtool = shutil.which("promtool")

        self.judge_log()

        self.check("the upstream answered", not self.upstream.requests
                   and [(0, "no request went upstream")])
        self.check("no worker ended", self.living != self.nginx.born
                   and [(0, f"{self.nginx.born} became {self.living}")])
        self.check("no alert in the error log", [(0, b) for b in bad])
        self.check("no sanitizer report",
                   [(0, r[:6000]) for r in self.nginx.reports()])
        self.check("nothing is left in flight", self.in_flight != 0
                   and [(0, f"gauges at {self.in_flight}")])
        self.check("the upstream got whole, clean requests",
                   self.upstream.faults)
        self.check("requests, log lines and upstream requests agree",
                   self.counts)
        self.check("every answer is HTTP", self.malformed)
        self.check("every request ends", self.endless)
        self.check("no client sees bytes of another", self.foreign)
        self.check("no secret in the logs",
                   "hostile-token" in log + self.nginx.access_log()
                   and [(0, "the token")])
        if promtool:
            done = subprocess.run([promtool, "check", "metrics"], text=True,
                                  input=self.metrics, capture_output=True)
            self.check("the metrics are valid", done.returncode
                       and [(0, done.stdout + done.stderr)])

        print(f"{self.upstream.requests} requests reached the upstream, "
              f"seed {self.seed}")
        if self.failed:
            print(f"files kept in {self.nginx.dir}")
            print(f"replay all: tools/hostile.sh {self.count} {self.seed} "
                  f"{self.numbers.start}")
        else:
            self.nginx.remove()
        print(f"{self.passed} passed, {self.failed} failed")

    def check(self, promise, breaches):
        if not breaches:
            print(f"ok     {promise}")
            self.passed += 1
            return

        print(f"FAILED {promise}: {len(breaches)} times")
        self.failed += 1

        for number, text in breaches[:SHOWN]:
            print(f"       {text}")
            if number:
                print(f"       replay: tools/hostile.sh 1 {self.seed} "
                      f"{number}")


def main():
    count, seed, first = (int(a) for a in (sys.argv[1:] + ["1"])[:3])
    run = Run(count, seed, first)
    asyncio.run(run.play())
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
