#!/usr/bin/env python3
"""Quotas under load and faults: gateways of several workers, a real Redis, and
one user who asks for twenty times of what is allowed.

    run.py [--seed N] [--long] [--gateways N] [--workers N] [SCENARIO ...]

Who passes the same seed gets the same faults.  The last line tells the count.
"""

import argparse
import asyncio
import random
import sys
import time

from faults import Faults
from harness import (REDIS_TIMEOUT, Gateway, Redis, Report, Stream, Upstream,
                     noon_zone, wait_for)
from judge import Judge
from load import Load, User, until

CONCURRENCY = 4
LIMIT = 70000

# A request may need several words from Redis, and this machine its time.

PATIENCE = 4 * REDIS_TIMEOUT + 1.0

NORMAL = [200, 429]
FAULTY = [0, 200, 401, 429, 502, 503]


def records(redis, limit=LIMIT, others=("bob", "carol"), **fields):
    """Writes what an admin would: alice, who is limited, and others."""

    redis.user("alice", "token-of-alice", concurrency=CONCURRENCY,
               tokens_per_day=limit, tz=noon_zone(), **fields)
    for name in others:
        redis.user(name, f"token-of-{name}")


def users(aborts=0.0):
    return [User("alice", 20 * CONCURRENCY, aborts), User("bob", 2),
            User("carol", 2)]


class Scene:
    """Gateways, one Redis, one upstream, and what they are judged by."""

    def __init__(self, report, args, aof="everysec", count=None, **options):
        self.report = report
        self.args = args
        self.redis = Redis(aof).start()
        self.upstream = Upstream()
        records(self.redis)
        self.gateways = [
            Gateway(self.upstream, self.redis, args.workers, **options).start()
            for _ in range(count or args.gateways)]
        self.ready()
        self.over = {}
        self.may_forget = False
        self.calibrate()

    def ready(self):
        """All workers of all gateways answer."""
        for gateway in self.gateways:
            wait_for("the first answer", lambda g=gateway: g.chat(
                "token-of-bob", script="fast", user="bob").status == 200)

    def calibrate(self):
        """What an estimate adds to body and asked tokens, from the state."""

        self.redis.user("probe", "token-of-probe", tokens_per_day=1000000)

        for stream in (False, True):
            load = Load(self.gateways[:1], [], 0)
            wait_for("the probe to be settled",
                     lambda: self.redis.in_flight("probe") == 0)
            before = self.redis.used("probe")

            async def plan(stream=stream, load=load, before=before):
                task = asyncio.create_task(self.one(load, stream))
                try:
                    await until("a reservation", lambda: self.redis.used(
                        "probe") > before, 5)
                    return self.redis.used("probe") - before, await task
                finally:
                    task.cancel()

            charged, outcome = asyncio.run(plan())
            self.over[stream] = charged - outcome.size - outcome.asked

        self.report.check("an estimate is body + 128 + what was asked for",
                          all(128 <= over <= 128 + 64
                              for over in self.over.values()), str(self.over))

    async def one(self, load, stream):
        from load import Outcome
        user = User("probe", 0)
        user.script = "hold=0.5"
        outcome = Outcome(user, stream, stream, 50)
        connection = await asyncio.open_connection(
            "127.0.0.1", load.gateways[0].port)
        await load.ask(connection, user, outcome)
        connection[1].close()
        return outcome

    def load(self, who, kinds=(), gap=(0.2, 0.5), seconds=6.0, limit=LIMIT,
             drain=25.0):
        """The load with faults for so long, then without until alice has used
        up what she has."""

        load = Load(self.gateways, who, self.args.seed)
        faults = Faults(kinds, gap, self.args.seed, self.gateways, self.redis,
                        lambda: records(self.redis, limit))

        async def plan():
            if kinds:
                with faults:
                    await asyncio.sleep(seconds * self.args.dose)
                print(f"       {faults.told()}")
            began = time.monotonic()
            await until("the limit to be used up",
                        lambda: self.spent(load, began), drain)

        asyncio.run(load.run(plan()))
        self.quiet()
        return load

    @staticmethod
    def spent(load, began):
        """For a second alice was told of her day, and of nothing else."""

        now = time.monotonic()
        last = load.of("alice", max(began, now - 1))
        return now > began + 1 and len(last) > 5 and all(
            o.status == 429 and "daily tokens" in o.text for o in last)

    def forgot(self):
        """Has Redis lost what it had confirmed?  With everysec it does when
        it is killed while its disk is slow: it answers before it writes."""

        return self.redis.usage("alice").get("ls", 0) > 0

    def quiet(self):
        """What is in flight has ended; slots of the killed are back.  A Redis
        that forgot settlements holds their places until they expire."""

        if self.may_forget and self.forgot():
            print("       Redis forgot: "
                  f"{self.redis.in_flight('alice')} places will expire")
            return

        self.report.soon("nothing is in flight any more, 2 s later",
                         lambda: self.redis.in_flight("alice") == 0
                         and not self.upstream.live("alice"), 4)

    def judge(self, load, limit=LIMIT, lossless=True, faulty=True):
        """The properties that always hold; lossless: Redis has forgotten
        nothing, so that its count can be told exactly."""

        judge = Judge(self.report, self.upstream, load, self.over)
        used = self.redis.used("alice")

        judge.within("alice", limit)
        judge.live("alice", CONCURRENCY)
        judge.exhausted(used, limit, "alice")
        if lossless and not (self.may_forget and self.forgot()):
            judge.charged("alice", used)
        judge.prompt("alice", PATIENCE)
        judge.answers("alice", FAULTY if faulty else NORMAL)
        judge.answers("bob", [s for s in FAULTY if s != 429] if faulty
                      else [200])
        self.report.equal("tokens beyond an estimate", sum(
            g.metric("clawdbot_quota_underestimate_tokens_total") or 0
            for g in self.gateways), 0)
        return judge

    def afresh(self, limit=30000):
        """P6: with a new epoch the whole limit can be used, exactly."""

        before = {e["n"] for e in self.upstream.entries()}
        self.redis("HSET", "clawd:user:alice", "tokens_per_day", limit)
        self.redis("HINCRBY", "clawd:user:alice", "epoch", 1)

        # More than was left before, so that it shows the new epoch.

        self.report.soon("usage starts afresh", lambda: self.gateways[-1].chat(
            "token-of-alice", script="fast", user="alice",
            max_tokens=1000).status == 200)

        load = self.load(users()[:1], limit=limit)
        used = self.redis.used("alice")
        total = sum(e["tokens"] for e in self.upstream.entries()
                    if e["user"] == "alice" and e["n"] not in before)
        self.report.equal("afresh: used = answered", used, total)
        Judge(self.report, self.upstream, load, self.over).exhausted(
            used, limit, "alice")

    def close(self):
        for gateway in self.gateways:
            gateway.stop()
        self.report.clean(*self.gateways)


# scenarios

def exact(report, args):
    """Without faults: exactly used up."""

    scene = Scene(report, args)
    load = scene.load(users())
    judge = scene.judge(load, faulty=False)
    judge.settled("alice")

    texts = {o.text for o in load.of("alice") if o.status == 429}
    report.check("refusals tell of both limits", all(
        any(words in text for text in texts)
        for words in ("daily tokens: ", "concurrent requests: ")),
        "" if len(texts) > 1 else str(texts)[:200])
    report.check("refusals say when", all(
        int(o.headers.get("retry-after", 0)) > 0
        for o in load.of("alice") if o.status == 429))
    scene.close()


def workers(report, args):
    """Workers are killed, configurations reloaded, clients leave."""

    scene = Scene(report, args)
    load = scene.load(users(0.05), ["worker"] * 4 + ["reload"], (0.15, 0.4))
    scene.judge(load)
    scene.afresh()
    scene.close()


def leak(report, args):
    """A killed worker's places: clawd's are back, limit_conn's are not."""

    scene = Scene(report, args, count=1)
    gateway = scene.gateways[0]

    held = [Stream(gateway, "token-of-alice", "alice")
            for _ in range(CONCURRENCY)]
    plain = [Stream(gateway, "-", "plain", path="/plain/v1")
             for _ in range(4)]
    report.equal("streams are admitted", [s.status() for s in held + plain],
                 [200] * (CONCURRENCY + 4))
    report.equal("one more is refused",
                 gateway.chat("token-of-alice", user="alice").status, 429)
    report.equal("limit_conn refuses one more, too", plain_status(gateway),
                 429)

    for pid in gateway.workers():
        gateway.kill_worker(pid)
    for stream in held + plain:
        stream.close()

    def again():
        try:
            return gateway.chat("token-of-alice", script="fast",
                                user="alice").status == 200
        except OSError:
            return False

    report.soon("clawd's places are back", again, 2)
    report.soon("all of them, in Redis", lambda: scene.redis.in_flight("alice")
                == 0, 2)
    report.equal("limit_conn still refuses", plain_status(gateway), 429)
    report.check("tokens of the killed stay charged", scene.redis.used("alice")
                 >= CONCURRENCY * 128, str(scene.redis.used("alice")))
    scene.close()


def plain_status(gateway):
    """A refusal is quick; who is let through holds for as long as nothing."""

    stream = Stream(gateway, "-", "plain", "fast", "/plain/v1")
    try:
        return stream.status()
    finally:
        stream.close()


def lost(report, args):
    """A whole gateway goes: its reservations expire, and stay charged."""

    scene = Scene(report, args)
    gone, stays = scene.gateways[:2]
    held = [Stream(gone, "token-of-alice", "alice")
            for _ in range(CONCURRENCY)]
    report.equal("streams are admitted", [s.status() for s in held],
                 [200] * CONCURRENCY)
    used = scene.redis.used("alice")
    gone.kill()
    report.equal("the other gateway refuses meanwhile",
                 stays.chat("token-of-alice", user="alice").status, 429)

    report.soon("places of the gateway are back", lambda: stays.chat(
        "token-of-alice", script="fast tokens=1,1", user="alice").status
        == 200, 130)
    report.check("its tokens stay charged",
                 scene.redis.used("alice") >= used)
    scene.close()


def restarts(report, args, aof):
    """Redis is killed and comes back, workers die meanwhile."""

    scene = Scene(report, args, aof)
    scene.may_forget = aof == "everysec"
    load = scene.load(users(), ["restart"] * 2 + ["worker"], (0.3, 1.2), 7)
    scene.judge(load, lossless=aof != "none")
    scene.afresh()
    scene.close()


def local(report, args):
    """on_down=local, and outage after outage: each gateway's tenth is one for
    the day, not one for each of them."""

    scene = Scene(report, args, "always", on_down="local")
    load = scene.load(users(), ["restart", "pause"], (0.2, 0.8))
    judge = Judge(report, scene.upstream, load, scene.over)
    used = scene.redis.used("alice")
    judge.within("alice", LIMIT * (10 + len(scene.gateways)) // 10)
    judge.charged("alice", used)
    judge.prompt("alice", PATIENCE)
    judge.answers("alice", FAULTY)
    scene.afresh()
    scene.close()


def pauses(report, args):
    """Redis hangs, is full, is read-only, forgets scripts, drops links."""

    scene = Scene(report, args)
    load = scene.load(users(), ["pause", "full", "readonly", "scripts",
                                "clients"], (0.3, 0.9), 8)
    scene.judge(load)
    scene.afresh()
    scene.close()


def storm(report, args):
    """All of it at once, with a Redis that forgets."""

    scene = Scene(report, args, "none")
    load = scene.load(users(0.03), ["worker"] * 4 + ["restart"] * 2 + [
        "reload", "pause", "full", "readonly", "scripts", "flush", "clients"],
        (0.1, 0.6), 10)
    scene.judge(load, lossless=False)
    scene.afresh()
    scene.close()


def flush(report, args):
    """FLUSHALL: usage comes back from what the gateways know."""

    scene = Scene(report, args)
    load = scene.load(users(), ["flush"], (0.8, 1.5), 5)
    scene.judge(load, lossless=False)
    scene.close()


def breaker(report, args):
    """Decisions are as quick with the breaker open as with Redis."""

    scene = Scene(report, args, on_down="open")
    gateway = scene.gateways[0]

    def median(count=60):
        times = []
        for _ in range(count):
            start = time.monotonic()
            status = gateway.chat("token-of-bob", script="fast",
                                  user="bob").status
            times.append(time.monotonic() - start)
            if status != 200:
                return float("inf")
        return sorted(times)[count // 2]

    healthy = median()
    scene.redis.pause()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline \
            and gateway.metric("clawdbot_redis_up") != 0:
        gateway.chat("token-of-bob", script="fast", user="bob")
    hung = median()
    report.check("decisions with Redis hung, breaker open",
                 hung <= healthy * 3 + 0.003,
                 f"median {hung * 1000:.2f} ms, with Redis "
                 f"{healthy * 1000:.2f} ms")
    scene.redis.resume()
    scene.redis.kill()
    dead = median()
    report.check("decisions with Redis dead", dead <= healthy * 3 + 0.003,
                 f"median {dead * 1000:.2f} ms")
    scene.close()


def rates(report, args):
    """P2: requests within any time, as the upstream saw them."""

    scene = Scene(report, args)
    rpm = 120
    scene.redis("HSET", "clawd:user:dave", "rpm", rpm, "concurrency", 50)
    scene.redis("HSET", f"clawd:key:{sha('token-of-dave')}", "user", "dave")
    load = Load(scene.gateways, [User("dave", 30)], args.seed)

    async def plan():
        await asyncio.sleep(8 * args.dose)

    asyncio.run(load.run(plan()))
    starts = sorted(e["start"] for e in scene.upstream.entries()
                    if e["user"] == "dave")
    worst = worst_width = 0
    for i, first in enumerate(starts):
        for j in range(i, len(starts)):
            over = (j - i + 1) - rpm - (starts[j] - first + 1) * rpm / 60
            if over > worst or not worst_width:
                worst, worst_width = over, starts[j] - first
    report.check("admitted <= burst + rate x time", worst <= 0,
                 f"{len(starts)} in {starts[-1] - starts[0]:.1f} s, most over"
                 f" {worst:.1f}")
    report.check("the rate is used", len(starts) >= rpm)
    scene.close()


def sha(token):
    from harness import digest
    return digest(token)


def embedded(report, args):
    """Without Redis: master and workers are killed under load; neither life
    forgets what the other admitted."""

    limit = 60000
    upstream = Upstream()
    http = f"clawd_quota small tokens_per_day={limit} " \
           f"concurrency={CONCURRENCY} tz={noon_zone()};\n" \
           "clawd_token token-of-alice user=alice plan=small;\n" \
           "clawd_token token-of-bob user=bob;"
    gateway = Gateway(upstream, None, args.workers, http=http).start()
    load = Load([gateway], [User("alice", 20 * CONCURRENCY, 0.03),
                            User("bob", 2)], args.seed)
    chance = random.Random(args.seed)

    async def plan():
        for _ in range(3):
            with Faults(["worker"], (0.2, 0.5), args.seed, [gateway]):
                await asyncio.sleep(chance.uniform(0.6, 1.2))
            gateway.kill()
            await asyncio.to_thread(gateway.start)
        began = time.monotonic()
        await until("the limit to be used up",
                    lambda: Scene.spent(load, began), 30)

    asyncio.run(load.run(plan()))
    judge = Judge(report, upstream, load, {True: 192, False: 192})
    total = judge.within("alice", limit)
    judge.live("alice", CONCURRENCY)
    judge.answers("alice", FAULTY)
    report.check("most of the limit was usable", total >= limit / 4,
                 f"{total} of {limit}, three kills")

    told = gateway.get("/v1/usage", "token-of-alice").json()
    gateway.stop()
    report.check("a state file is there", gateway.state.stat().st_size > 0)
    gateway.start()
    report.equal("usage after an orderly restart is the same",
                 usage_of(gateway.get("/v1/usage", "token-of-alice").json()),
                 usage_of(told))
    report.equal("and still holds",
                 gateway.chat("token-of-alice", user="alice",
                              max_tokens=400).status, 429)
    gateway.stop()
    report.clean(gateway)

    text = gateway.state.read_bytes()
    gateway.state.write_bytes(text[:len(text) // 2])
    gateway.start(wait=False)
    report.soon("half a state file is refused",
                lambda: gateway.process.poll() not in (None, 0), 5)


def usage_of(told):
    """The used tokens of a day, wherever they stand in /v1/usage."""

    found = []

    def walk(value, name=""):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, key if key != "used" else name + " used")
        elif name == "tokens_per_day used":
            found.append(value)

    walk(told)
    return found


SCENARIOS = {
    "exact": exact,
    "workers": workers,
    "leak": leak,
    "always": lambda report, args: restarts(report, args, "always"),
    "everysec": lambda report, args: restarts(report, args, "everysec"),
    "none": lambda report, args: restarts(report, args, "none"),
    "local": local,
    "pauses": pauses,
    "flush": flush,
    "breaker": breaker,
    "rates": rates,
    "embedded": embedded,
    "storm": storm,
    "lost": lost,
}

LONG_ONLY = ["storm", "lost"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int,
                        default=random.SystemRandom().randrange(10 ** 6))
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--gateways", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("scenario", nargs="*")
    args = parser.parse_args()

    args.gateways = args.gateways or (4 if args.long else 2)
    args.dose = 6 if args.long else 1
    names = args.scenario or [name for name in SCENARIOS
                              if args.long or name not in LONG_ONLY]

    report = Report("fault")
    print(f"seed {args.seed}, {args.gateways} gateways of {args.workers} "
          f"workers", flush=True)
    for name in names:
        report.part(name, SCENARIOS[name], args)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
