#!/usr/bin/env python3
"""docs/quotas.md, block by block: each shell block is run in order, in one
shell, and its effect is seen through a gateway.

A block without a check, or a check without its block, is a failure.
"""

import json
import os
import re
import subprocess
import sys
import time

from harness import (ROOT, Client, Folder, Gateway, Redis, RedisError, Report,
                     Stream, Upstream)

PAGE = ROOT / "docs/quotas.md"

# "within a second", and what a busy machine adds.

SOON = 1.5

SHIM = """#!/bin/sh
exec {redis_cli} -p {port} "$@"
"""


class Shell:
    """One bash for all blocks: variables last from one to the next."""

    def __init__(self, port):
        folder = Folder("docs").path
        path = folder / "redis-cli"
        real = subprocess.run(["sh", "-c", "command -v redis-cli"],
                              capture_output=True, text=True,
                              check=True).stdout.strip()
        path.write_text(SHIM.format(redis_cli=real, port=port))
        path.chmod(0o755)

        self.script = folder / "block"
        self.state = folder / "state"
        self.state.write_text("")
        self.folder = folder
        self.env = dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}")

    def run(self, block):
        """What it prints; it must succeed, all of it."""

        self.script.write_text(
            f". {self.state}\nset -eu -o pipefail\n{block}\n"
            f"declare -p TOKEN KEY > {self.state} 2>/dev/null || :\n")
        done = subprocess.run(["bash", self.script], cwd=self.folder,
                              env=self.env, capture_output=True, text=True,
                              timeout=20)
        if done.returncode or "ERR" in done.stdout or done.stderr:
            raise RuntimeError(f"{block}\n{done.stdout}{done.stderr}")
        return done.stdout

    def variable(self, name):
        found = re.search(rf'{name}="?([^"\n]*)', self.state.read_text())
        return found.group(1) if found else ""


class Page:
    """The blocks with what was learned so far, and a check for each."""

    def __init__(self, report):
        self.report = report
        self.redis = Redis("none").start()
        self.upstream = Upstream()
        self.gateway = Gateway(self.upstream, self.redis).start()
        self.shell = Shell(self.redis.port)
        self.token = ""

    # what a caller sees

    def chat(self, model="llama3", **options):
        return self.gateway.chat(self.token, model, user="alice",
                                 script="fast tokens=30,20", **options)

    def status(self, model="llama3"):
        return self.chat(model).status

    def soon(self, what, condition):
        self.report.soon(what, condition, SOON)

    def settled(self):
        """An answer may be at its client before it is charged."""
        self.soon("all is settled",
                  lambda: self.redis.in_flight("alice") == 0)

    def limit(self, name):
        """Limit and use of it as /v1/usage tells, or nothing."""
        answer = self.gateway.get("/v1/usage", self.token)
        if answer.status != 200:
            return {}
        return {entry["name"]: entry
                for entry in answer.json()["limits"]}[name]

    def has_limit(self, name, value):
        self.soon(f"{name} is {value}",
                  lambda: self.limit(name).get("limit") == value)

    # one check for each block: what it contains, in the page's order

    def plan(self, _):
        self.report.equal("nobody is known yet",
                          self.gateway.chat("nothing").status, 401)

    def user(self, _):
        self.report.equal("a user without a token", self.gateway.chat(
            "alice").status, 401)

    def key(self, out):
        self.token = out.splitlines()[-1]
        self.report.equal("the token is shown", self.token,
                          self.shell.variable("TOKEN"))
        self.soon("the token works", lambda: self.status() == 200)
        self.report.check("it is stored nowhere", self.token not in str(
            [self.redis("HGETALL", k) for k in self.redis("KEYS",
                                                          "clawd:*:*")
             if self.redis("TYPE", k) == "hash"]))

    def usage(self, out):
        told = json.loads(out)
        self.report.equal("usage tells the user and the plan",
                          (told["user"], told["plan"]), ("alice", "gold"))
        self.has_limit("tokens_per_day", 2000000)
        self.has_limit("rpm", 120)
        self.has_limit("concurrency", 4)
        self.report.equal("and what was used",
                          self.limit("tokens_per_day")["used"], 50)

    def state(self, out):
        self.report.equal("day and month", out.split()[:2], ["50", "50"])

    def running(self, out):
        self.report.equal("nothing is running", out.strip(), "0")
        stream = Stream(self.gateway, self.token, "alice")
        stream.status()
        self.report.equal("one is", self.redis.in_flight("alice"), 1)
        stream.close()
        self.soon("none is", lambda: self.redis.in_flight("alice") == 0)

    def raised(self, _):
        self.has_limit("tokens_per_day", 3000000)

    def unset(self, _):
        self.has_limit("tokens_per_day", 2000000)

    def changed(self, _):
        self.has_limit("tokens_per_month", 40000000)

    def blocked(self, _):
        self.soon("all of the user's tokens are denied",
                  lambda: self.status() == 401)
        self.report.equal("as an unknown one is", self.chat().text,
                          self.gateway.chat("unknown").text)

    def allowed(self, _):
        self.soon("the token works", lambda: self.status() == 200)

    def expires(self, _):
        self.report.equal("it works until then", self.status(), 200)
        self.redis("HSET", self.shell.variable("KEY"), "expires",
                   int(time.time()) + 1)
        self.report.soon("and not a second longer",
                         lambda: self.status() == 401, 1 + SOON)
        self.redis("HSET", self.shell.variable("KEY"), "expires", 0)
        self.soon("0 is never", lambda: self.status() == 200)

    def models(self, _):
        self.soon("another model is refused",
                  lambda: self.status("mistral") == 403)
        self.report.equal("those listed are not",
                          [self.status(m) for m in ("llama3", "llama3.2:1b",
                                                    "qwen3:8b")], [200] * 3)

    def key_models(self, _):
        self.soon("the token's list counts, too",
                  lambda: self.status("llama3") == 403)
        self.report.equal("what both allow", self.status("qwen3:8b"), 200)

    def all_models(self, _):
        self.soon("all models", lambda: self.status("mistral") == 200)

    def zone(self, _):
        def told():
            answer = self.gateway.get("/v1/usage", self.token).json()
            return answer.get("time_zone") == "Europe/Berlin"
        self.soon("the time zone is told", told)

    def epoch(self, _):
        self.soon("usage starts at 0",
                  lambda: self.limit("tokens_per_day")["used"] == 0)
        self.chat()
        self.settled()
        state = "clawd:{alice}:u:alice"
        self.redis("DEL", state)
        self.report.soon("after a pause she is served again",
                         lambda: self.status() == 200, 4)
        self.settled()
        self.report.equal("deleting the state does not reset",
                          self.redis.used("alice"), 100)

    def tokens(self, out):
        self.report.equal("the token, its user and its name", out.strip(),
                          f"{self.shell.variable('KEY')} alice laptop")

    def near(self, out):
        self.redis("HSET", "clawd:user:alice", "tokens_per_day", 2000)
        self.report.equal("nobody is near", out.split(),
                          ["0", "%", "alice", "100", "2000000"])
        self.chat()
        self.settled()
        again = self.shell.run("redis-cli --eval near.lua")
        self.report.equal("now somebody is", again.split(),
                          ["7", "%", "alice", "150", "2000"])
        self.redis("HDEL", "clawd:user:alice", "tokens_per_day")

    def revoked(self, _):
        self.soon("the token is denied", lambda: self.status() == 401)
        self.redis("HSET", self.shell.variable("KEY"), "user", "alice")
        self.soon("a new record of the same token works",
                  lambda: self.status() == 200)
        self.stream = Stream(self.gateway, self.token, "alice",
                             "hold=2.5 tokens=30,20")
        self.report.equal("a stream begins", self.stream.status(), 200)

    def removed(self, _):
        used = self.redis.used("alice")
        self.soon("all of the user's tokens are denied",
                  lambda: self.status() == 401)
        self.report.check("what was running ends by itself",
                          "data: [DONE]" in self.stream.to_end())
        self.stream.close()
        self.soon("and is charged", lambda: self.redis.in_flight("alice") == 0
                  and self.redis.used("alice") < used)
        self.redis.user("alice", plan="gold")
        self.soon("the record comes back", lambda: self.status() == 200)

    def misspelt(self, _):
        """The block leaves nothing behind: each mistake is made here."""
        mistakes(self)

    def settings(self, _):
        self.report.equal("Redis is told", [
            self.redis("CONFIG", "GET", name)[1] for name in
            ("appendonly", "appendfsync", "maxmemory-policy")],
            ["yes", "everysec", "noeviction"])
        self.report.equal("nothing is lost by it", self.status(), 200)

    def acl(self, _):
        """A gateway of that user works in full, and can do no more."""

        link = f"redis://127.0.0.1:{self.redis.port}/0 user=clawd " \
               "password=change-this"
        gateway = Gateway(self.upstream, self.redis, link=link).start()
        self.report.soon("a gateway of that user works", lambda: gateway.chat(
            self.token, user="alice").status == 200, 5)
        stream = Stream(gateway, self.token, "alice", "hold=0.3")
        stream.status()
        stream.to_end()
        stream.close()
        self.redis("HSET", "clawd:user:alice", "disabled", 1)
        self.soon("and hears of changes", lambda: gateway.chat(
            self.token, user="alice").status == 401)
        self.redis("HSET", "clawd:user:alice", "disabled", 0)
        self.soon("both ways", lambda: gateway.chat(
            self.token, user="alice").status == 200)

        log = [line for line in self.redis("ACL", "LOG")
               if "lua" not in str(line)]
        self.report.equal("nothing that it does is refused", log, [])
        self.report.equal("no error of the link", gateway.metric(
            "clawdbot_redis_errors_total", **{"class": "auth"}) or 0, 0)

        try:
            client = Client(self.redis.port)
            client("AUTH", "clawd", "change-this")
            client("HSET", "clawd:user:alice", "role", "admin")
            self.report.check("it may write no record", False)
        except RedisError as e:
            self.report.check("it may write no record", "NOPERM" in str(e))
        gateway.stop()
        self.report.clean(gateway)


# The first that a block contains is its check; each is used once, in order.

CHECKS = [
    ("HSET clawd:plan:gold rpm", Page.plan),
    ("HSET clawd:user:alice plan gold", Page.user),
    ("TOKEN=$(head", Page.key),
    ("curl", Page.usage),
    ("HMGET 'clawd:{alice}:u:alice' du", Page.state),
    ("ZCARD", Page.running),
    ("tokens_per_day 3000000", Page.raised),
    ("HDEL clawd:user:alice tokens_per_day", Page.unset),
    ("HSET clawd:plan:gold tokens_per_month", Page.changed),
    ("clawd:user:alice disabled 1", Page.blocked),
    ("clawd:user:alice disabled 0", Page.allowed),
    ('"$KEY" disabled 1', Page.blocked),
    ('"$KEY" disabled 0', Page.allowed),
    ("+30 days", Page.expires),
    ('clawd:user:alice models "', Page.models),
    ('"$KEY" models "', Page.key_models),
    ('HDEL "$KEY" models', Page.all_models),
    ("tz Europe/Berlin", Page.zone),
    ("HINCRBY", Page.epoch),
    ("--scan", Page.tokens),
    ("near.lua", Page.near),
    ('DEL "$KEY"', Page.revoked),
    ("DEL clawd:user:alice", Page.removed),
    ("token_per_day 1000", Page.misspelt),
    ("appendonly", Page.settings),
    ("ACL SETUSER", Page.acl),
]


# record, field, value: each alone must deny, and be named in the log

MISTAKES = [
    ("user:alice", "token_per_day", "1000"),
    ("user:alice", "expires", "0"),
    ("user:alice", "tokens_per_day", "2M"),
    ("user:alice", "tokens_per_day", "-1"),
    ("user:alice", "rpm", "1e6"),
    ("user:alice", "tpm", ""),
    ("user:alice", "disabled", "maybe"),
    ("user:alice", "role", "root"),
    ("user:alice", "tz", "Mars/Olympus"),
    ("user:alice", "plan", "platinum"),
    ("plan:gold", "Concurrency", "4"),
    ("plan:gold", "concurrency", "0x4"),
    ("plan:default", "rpm", "many"),
    ("key", "expires", "tomorrow"),
    ("key", "user", "al ice"),
]


def mistakes(page):
    report, redis, gateway = page.report, page.redis, page.gateway
    key = page.shell.variable("KEY")

    for record, field, value in MISTAKES:
        name = key if record == "key" else f"clawd:{record}"
        before = redis("HGET", name, field)
        count = gateway.metric("clawdbot_ledger_invalid_total") or 0
        seen = len(gateway.error_log())

        redis("HSET", name, field, value)
        page.soon(f"{record} {field} \"{value}\" denies",
                  lambda: page.status() == 401)
        news = gateway.error_log()[seen:]
        shown = name if record != "key" else "clawd:key:"
        report.check("and is logged by its name",
                     shown in news or record.split(":")[1] in news
                     and value in news, news[-300:])
        report.check("without the token's digest or the token",
                     page.token not in news)
        report.check("and counted", (gateway.metric(
            "clawdbot_ledger_invalid_total") or 0) > count)

        if before is None:
            redis("HDEL", name, field)
        else:
            redis("HSET", name, field, before)
        page.soon("and is cured", lambda: page.status() == 200)

    wrong_types(page)


def wrong_types(page):
    """Keys that are no hashes; state of a type that is not its own."""

    report, redis, gateway = page.report, page.redis, page.gateway

    for name in ("clawd:user:alice", page.shell.variable("KEY")):
        redis("RENAME", name, "kept")
        redis("SET", name, "x")
        page.soon(f"{name[:11]} that is a string denies",
                  lambda: page.status() == 401)
        redis("DEL", name)
        page.soon("one that is missing denies", lambda: page.status() == 401)
        redis("RENAME", "kept", name)
        page.soon("and is cured", lambda: page.status() == 200)

    state = "clawd:{alice}:u:alice"
    redis("RENAME", state, "kept")
    redis("SET", state, "x")
    status = page.status()
    report.check("state of a wrong type never widens", status in (401, 429,
                                                                  503),
                 str(status))
    redis("DEL", state)
    redis("RENAME", "kept", state)
    report.soon("and is cured", lambda: page.status() == 200, 6)

    redis("HSET", state, "du", "many")
    status = page.status()
    report.check("a count that is no number does no harm",
                 status in (200, 401, 429, 503), str(status))
    redis("HINCRBY", "clawd:user:alice", "epoch", 1)
    report.soon("a new epoch cures it", lambda: page.status() == 200, 6)
    report.equal("all workers live", len(gateway.workers()), 2)


def play(report):
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.S | re.M)
    report.equal("each block has its check, in order", [
        next((mark for mark, _ in CHECKS if mark in block), block)
        for block in blocks], [mark for mark, _ in CHECKS])

    page = Page(report)
    for block, (mark, check) in zip(blocks, CHECKS):
        if mark not in block:
            report.check(f"run: {mark}", False, block)
            continue
        print(f"       $ {block.splitlines()[0]}", flush=True)
        out = page.shell.run(block.replace("http://127.0.0.1:8080",
                                           f"http://127.0.0.1:"
                                           f"{page.gateway.port}"))
        check(page, out)

    page.gateway.stop()
    report.clean(page.gateway)


def main():
    report = Report("docs")
    report.part("docs/quotas.md", play)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
