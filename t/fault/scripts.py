#!/usr/bin/env python3
#
# The scripts of the store in Redis, against real servers and against the
# arithmetic of the store in the zone, which is compiled into a library.
#
#     t/fault/scripts.py [SEED [OPERATIONS]]
#
# Needs redis-server (7 or later), a C compiler and what tools/build.sh made.
# Most cases run copies of the scripts that are told the time.  The last line is
# "scripts: N passed, N failed".

import calendar
import ctypes
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import datetime, timedelta, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NGINX = Path("/usr/share/nginx/src/src")
SEED = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(1 << 32)
OPERATIONS = int(sys.argv[2]) if len(sys.argv) > 2 else 30000

NONE = [-1] * 5
DAY = 86400
MAX = 1 << 53
RESERVE, SETTLE, BEAT = range(3)
FIELDS = ("epoch n rt tt minute minute_requests minute_tokens day day_tokens"
          " month month_tokens").split()
COMMANDS = ("time hmget hset expire zscore zcard zrangebyscore zadd zrem"
            " zremrangebyscore").split()

SHIM = r"""
#include "ngx_http_clawd_calendar.h"
#include "ngx_http_clawd_quota.h"
#include "ngx_http_clawd_scripts.h"

#define SEEN  __attribute__((visibility("default")))

int64_t
ngx_http_clawd_day_of_month(int64_t month)
{
    int64_t  y = 1970 + month / 12, m = month % 12, d = 0, i;
    int      leap = y % 4 == 0 && (y % 100 || y % 400 == 0);

    static const int  days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30 };

    for (i = 1970; i < y; i++) {
        d += (i % 4 == 0 && (i % 100 || i % 400 == 0)) ? 366 : 365;
    }

    for (i = 0; i < m; i++) {
        d += days[i] + (i == 1 ? leap : 0);
    }

    return d;
}

int64_t
ngx_http_clawd_month_of_day(int64_t day)
{
    int64_t  m = day / 31;

    while (ngx_http_clawd_day_of_month(m + 1) <= day) {
        m++;
    }

    return m;
}

int64_t ngx_http_clawd_day_end(ngx_str_t *tz, int64_t now) { return 0; }
int64_t ngx_http_clawd_month_end(ngx_str_t *tz, int64_t now) { return 0; }

SEEN const char *
shim_script(int i, size_t *len)
{
    *len = ngx_http_clawd_scripts[i].len;
    return (const char *) ngx_http_clawd_scripts[i].data;
}

static ngx_http_clawd_terms_t
terms(int64_t *limits, int64_t epoch, int32_t offset)
{
    ngx_http_clawd_terms_t  t;

    ngx_memcpy(t.limits, limits, sizeof(t.limits));
    t.epoch = epoch;
    t.offset = offset;
    return t;
}

SEEN void
shim_roll(ngx_http_clawd_usage_t *u, int64_t epoch, int32_t offset,
    int64_t now)
{
    int64_t                 limits[NGX_HTTP_CLAWD_LIMITS] = { 0 };
    ngx_http_clawd_terms_t  t = terms(limits, epoch, offset);

    ngx_http_clawd_quota_roll(u, &t, now);
}

SEEN int
shim_reserve(ngx_http_clawd_usage_t *u, int64_t *limits, int64_t epoch,
    int32_t offset, int64_t live, int64_t est, int64_t now, int64_t *windows)
{
    ngx_http_clawd_limit_e    limit;
    ngx_http_clawd_terms_t    t = terms(limits, epoch, offset);
    ngx_http_clawd_windows_t  w;

    if (ngx_http_clawd_quota_reserve(u, &t, live, est, now, &w, &limit)
        != NGX_OK)
    {
        return limit;
    }

    ngx_memcpy(windows, &w, sizeof(w));
    return -1;
}

SEEN void
shim_settle(ngx_http_clawd_usage_t *u, int64_t *windows, int64_t delta,
    int64_t tpm)
{
    ngx_http_clawd_windows_t  w;

    ngx_memcpy(&w, windows, sizeof(w));
    ngx_http_clawd_quota_settle(u, &w, delta, tpm);
}
"""


def library(folder):
    if not (ROOT / "build/dynamic/ngx_auto_config.h").exists():
        subprocess.run([ROOT / "tools/build.sh", "dynamic"], check=True,
                       cwd=ROOT)
    source, target = folder / "shim.c", folder / "shim.so"
    source.write_text(SHIM)
    rooms = [f"-I{room}" for room in (ROOT / "src").iterdir() if room.is_dir()]
    system = [part for name in ("core", "event", "event/modules", "os/unix")
              for part in ("-isystem", NGINX / name)]
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", "-shared", "-fPIC", "-o", target,
         f"-I{ROOT}/build/dynamic", f"-I{ROOT}/src", *rooms, *system, source,
         ROOT / "src/ledger/ngx_http_clawd_quota.c",
         ROOT / "src/ledger/ngx_http_clawd_scripts.c"], check=True)
    lib = ctypes.CDLL(str(target))
    lib.shim_script.restype = ctypes.c_void_p
    return lib


def script(lib, i):
    size = ctypes.c_size_t()
    text = lib.shim_script(i, ctypes.byref(size))
    return ctypes.string_at(text, size.value).decode()


class Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in FIELDS]

    def values(self):
        return [getattr(self, name) for name in FIELDS]


class RedisError(Exception):
    pass


class Client:

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.file = self.socket.makefile("rb")

    def close(self):
        self.file.close()
        self.socket.close()

    def __call__(self, *words):
        self.send(*words)
        reply = self.read()
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def send(self, *words):
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            word = str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        self.socket.sendall(b"".join(parts))

    def read(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"-":
            return RedisError(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == "-1" else \
                self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        return rest


class Server:

    def __init__(self, *options):
        self.folder = tempfile.mkdtemp(prefix="clawd-scripts-")
        self.options = options
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
            if "--cluster-enabled" in options:
                with socket.socket() as bus:
                    bus.bind(("127.0.0.1", 0))
                    self.options += ("--cluster-port",
                                     str(bus.getsockname()[1]))
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
             "--save", "", "--dir", self.folder, *self.options],
            stdout=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            try:
                self.client = Client(self.port)
                if self.client("PING") == "PONG":
                    break
            except (OSError, RedisError):
                if time.monotonic() > end or self.process.poll() is not None:
                    raise
                time.sleep(0.01)
        info = self.client("INFO", "server")
        self.run = info.split("run_id:")[1].split()[0]

    def crash(self):
        self.client.close()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.crash()
        shutil.rmtree(self.folder)


class Reply:

    def __init__(self, values, at):
        assert all(isinstance(v, int) for v in values), values
        self.all = values
        self.status = values[0]
        if at == 4:
            self.limit, self.now, self.live = values[1:4]
            self.settled = values.pop()
        self.usage = values[at:]
        assert len(self.usage) == len(FIELDS)
        for name, value in zip(FIELDS, self.usage):
            setattr(self, name, value)

    def guard(self):
        return self.usage[2:]


PAUSE = "now - ls < 2000000"


class Store:
    """The scripts on one server; clock None: its own time.  Without pause a
    server that has lost data admits at once."""

    def __init__(self, lib, server, clock=None, client=None, pause=False):
        self.server = server
        self.client = client or server.client
        self.clock = clock
        texts = [script(lib, i) for i in range(3)]
        assert texts[RESERVE].count(PAUSE) == 1
        if not pause:
            texts[RESERVE] = texts[RESERVE].replace(PAUSE, "now < ls")
        if clock is not None:
            for i, text in enumerate(texts):
                assert text.count("call('TIME')") == 1
                texts[i] = text.replace("call('TIME')", "{ KEYS[4], KEYS[5] }")
        self.texts = texts
        self.load()

    def load(self):
        self.shas = [self.client("SCRIPT", "LOAD", t) for t in self.texts]

    def keys(self, user):
        return [f"clawd:{{{user}}}:{kind}:{user}" for kind in "ufo"]

    def run(self, i, user, *args):
        keys = self.keys(user)
        if self.clock is not None:
            keys += [self.clock // 1000000, self.clock % 1000000]
        return self.client("EVALSHA", self.shas[i], len(keys), *keys, *args)

    def reserve(self, user, rid, est, limits=NONE, ttl=60000, deadline=0,
                offset=0, epoch=0, run=None, n=0, live=0, guard=(),
                riders=()):
        """riders: (rid, delta, minute, day, month, tpm) of each."""
        run = self.server.run if run is None else run
        return Reply(self.run(RESERVE, user, rid, est, ttl, deadline, *limits,
                              offset, epoch, run, n, live, *guard,
                              *(word for rider in riders for word in rider)), 4)

    def look(self, user, **more):
        return self.reserve(user, "-", -1, **more)

    def settle(self, user, rid, est, actual, windows, tpm=-1, offset=0,
               offline=0, run=None, n=0):
        epoch, minute, day, month = windows
        run = self.server.run if run is None else run
        return Reply(self.run(SETTLE, user, rid, est, actual, minute, day,
                              month, epoch, tpm, offset, offline, run, n), 1)

    def beat(self, user, *rids, ttl=60000, deadline=0):
        return self.run(BEAT, user, ttl, deadline, *rids)[0]

    def dump(self, user):
        hash_, flight, orphans = self.keys(user)
        return (self.client("HGETALL", hash_),
                self.client("ZRANGE", flight, 0, -1, "WITHSCORES"),
                self.client("ZRANGE", orphans, 0, -1, "WITHSCORES"))

    def field(self, user, name):
        return self.client("HGET", self.keys(user)[0], name)


def windows(reply):
    return reply.epoch, reply.minute, reply.day, reply.month


def micros(*when):
    return calendar.timegm(datetime(*when).timetuple()) * 1000000


def fails(prefix, function, *args, **more):
    try:
        reply = function(*args, **more)
    except RedisError as e:
        assert str(e).startswith(prefix), e
        return
    raise AssertionError(f"no {prefix}: {reply.all}")


# The cases.  Each takes the library and a server without data.


def differential(lib, server):
    """Number for number what the store in the zone does."""

    rnd = random.Random(SEED)
    store = Store(lib, server, 0)
    done = 0
    verdicts = set()

    while done < OPERATIONS:
        user = f"u{done}"
        done += Scenario(lib, store, rnd, user).play(verdicts)

    wanted = {("reserve", s) for s in (-1, 0, 1, 2, 3, 4, "again", "late")}
    wanted |= {("settle", s) for s in (0, 1, 2)} | {("look", 1), ("beat", 0)}
    assert verdicts >= wanted, wanted - verdicts


class Scenario:
    """A user's random life."""

    def __init__(self, lib, store, rnd, user):
        self.lib, self.store, self.rnd, self.user = lib, store, rnd, user
        self.u = None
        self.flight, self.orphans, self.gone = {}, {}, []
        self.epoch = rnd.choice([0, 0, 3])
        self.epochs = [self.epoch]
        self.offset = rnd.choice([0, 0, 3600, -39600, 50400, 20700])
        month = rnd.randrange(1, 13)
        self.store.clock = micros(rnd.randrange(2020, 2101), month, 1) \
            + rnd.randrange(-100000, 100000) * 1000000
        self.size = rnd.choice([1, 10, 500, 10 ** 6, 10 ** 9, 10 ** 12])
        self.numbers = 0
        self.change()

    def change(self):
        rnd = self.rnd
        self.limits = [rnd.choice([-1, -1, 3, 9])]
        self.limits.append(rnd.choice([-1, -1, 1, 5, 60, 600]))
        for factor in (5, 30, 100):
            limit = self.size * factor + rnd.randrange(7)
            self.limits.append(rnd.choice([-1, min(limit, 10 ** 12)]))
        if rnd.random() < 0.05:
            self.limits[rnd.randrange(5)] = 0

    def step(self):
        rnd = self.rnd
        kind = rnd.random()
        if kind < 0.4:
            self.store.clock += rnd.randrange(1000)
        elif kind < 0.9:
            self.store.clock += rnd.randrange(20 * 1000000)
        elif kind < 0.99:
            self.store.clock += rnd.randrange(7200 * 1000000)
        elif kind < 0.995:
            self.store.clock += rnd.randrange(40 * DAY * 1000000)
        else:
            self.store.clock -= rnd.randrange(100000 * 1000000)

    def play(self, verdicts):
        rnd = self.rnd
        count = rnd.randrange(50, 400)
        for _ in range(count):
            self.step()
            if rnd.random() < 0.01:
                self.change()
            if rnd.random() < 0.005:
                self.epoch += rnd.randrange(1, 3)
                self.epochs.append(self.epoch)
            if rnd.random() < 0.002:
                self.offset = rnd.choice([0, 7200, -36000])
            kind = rnd.random()
            if kind < 0.55 or self.u is None:
                verdicts.add(("reserve", self.reserve()))
            elif kind < 0.93:
                verdicts.add(("settle", self.settle()))
            elif kind < 0.97:
                verdicts.add(("look", self.look()))
            else:
                verdicts.add(("beat", self.beat()))
        return count

    def same(self, reply, wanted=None):
        wanted = (wanted or self.u).values()
        assert reply.usage == wanted, \
            f"{self.user}: Redis {reply.usage}, C {wanted}"

    def rolled(self, epoch):
        u = Usage.from_buffer_copy(self.u)
        self.lib.shim_roll(ctypes.byref(u), ctypes.c_int64(epoch),
                           self.offset, ctypes.c_int64(self.store.clock))
        return u

    def tokens(self):
        rnd = self.rnd
        if rnd.random() < 0.01:
            return rnd.choice([0, 10 ** 12, 10 ** 15, MAX])
        return rnd.randrange(2 * self.size + 1)

    def reserve(self):
        rnd, now = self.rnd, self.store.clock
        ms = now // 1000
        epoch = rnd.choice(self.epochs[-2:])
        est, live = self.tokens(), rnd.choice([0, 0, 1, 3])
        rid = f"{self.numbers:032x}"
        self.numbers += 1
        deadline = rnd.choice([0, now, now + 1])
        ttl = rnd.choice([10, 60000, 1000000])
        more = dict(limits=self.limits, ttl=ttl, offset=self.offset,
                    epoch=epoch, live=live)

        if self.u is not None:
            more["n"] = self.u.n
        riders = self.riders(epoch)
        more["riders"] = [(old, actual - est, *w[1:], tpm)
                          for old, actual, (est, w, tpm) in riders]
        if self.u is not None and rnd.random() < 0.03:
            reply = self.store.reserve(self.user, rid, est, deadline=now - 1,
                                       **more)
            assert reply.status == 3
            self.same(reply, self.rolled(epoch))
            return "late"

        if self.flight and rnd.random() < 0.03:
            before = self.store.dump(self.user)
            reply = self.store.reserve(
                self.user, rnd.choice(list(self.flight)), est, **more)
            assert reply.status == 2
            assert self.store.dump(self.user) == before
            self.same(reply, self.rolled(epoch))
            return "again"

        reply = self.store.reserve(self.user, rid, est, deadline=deadline,
                                   **more)

        if self.u is None:
            self.u = Usage(epoch=epoch, n=now)

        # where nothing is out of the ordinary, those that ride come first

        assert reply.settled in (0, 2 ** len(riders) - 1)
        assert (reply.settled > 0) == (epoch == self.u.epoch and riders != [])
        if reply.settled:
            self.u = self.rolled(epoch)
            for old, actual, (was, w, tpm) in riders:
                self.lib.shim_settle(
                    ctypes.byref(self.u), (ctypes.c_int64 * 4)(*w),
                    ctypes.c_int64(actual - was), ctypes.c_int64(tpm))
                self.gone.append((old, self.flight.pop(old)[1]))

        dead = sorted((end, old) for old, (end, _) in self.flight.items()
                      if end <= ms)[:64]
        live = max(live, len(self.flight) - len(dead))
        before = Usage.from_buffer_copy(self.u)
        w = (ctypes.c_int64 * 4)()
        limits = (ctypes.c_int64 * 5)(*self.limits)
        limit = self.lib.shim_reserve(
            ctypes.byref(self.u), limits, ctypes.c_int64(epoch), self.offset,
            ctypes.c_int64(live), ctypes.c_int64(est), ctypes.c_int64(now), w)

        assert reply.now == now
        self.same(reply)
        for _, old in dead:
            self.orphans[old] = ms, self.flight.pop(old)[1]
        if dead:
            for old, (since, kept) in list(self.orphans.items()):
                if since <= ms - 7 * DAY * 1000:
                    del self.orphans[old]
                    self.gone.append((old, kept))
        if limit >= 0:

            # Redis has written nothing: a clock that is set back shows it

            if self.u.epoch == before.epoch and before.minute:
                self.u = before
            assert (reply.status, reply.limit) == (0, limit), reply.all
            assert reply.live == live
            return limit

        assert (reply.status, reply.live) == (1, live + 1), reply.all
        assert tuple(w) == windows(reply)
        self.flight[rid] = (ms + ttl, (est, tuple(w), self.limits[2]))
        return -1

    def riders(self, epoch):
        rnd = self.rnd
        if rnd.random() < 0.6:
            return []
        kept = [(rid, kept) for rid, (_, kept) in self.flight.items()
                if kept[1][0] == epoch]
        return [(rid, min(rnd.choice([0, kept[0], kept[0] // 2, self.tokens()]),
                          MAX), kept)
                for rid, kept in rnd.sample(kept, min(len(kept), 8,
                                                      rnd.randrange(1, 9)))]

    def settle(self):
        rnd = self.rnd
        pools = [p for p in (self.flight, self.orphans, self.gone) if p]
        if not pools:
            return -1
        pool = rnd.choice(pools[:2] if len(pools) > 1 else pools)
        if self.gone and rnd.random() < 0.1:
            pool = self.gone
        if pool is self.gone:
            rid, (est, w, tpm) = rnd.choice(pool)
        else:
            rid = rnd.choice(list(pool))
            est, w, tpm = pool.pop(rid)[1]
            self.gone.append((rid, (est, w, tpm)))
        actual = rnd.choice([0, est, est // 2, est + 1, self.tokens()])
        actual = min(actual, MAX)
        offset = self.offset

        reply = self.store.settle(self.user, rid, est, actual, w, tpm, offset)
        u = self.rolled(w[0])
        if pool is self.gone:
            assert reply.status == 0
            self.same(reply, u)
            return 0

        self.u = u
        self.lib.shim_settle(ctypes.byref(self.u), (ctypes.c_int64 * 4)(*w),
                             ctypes.c_int64(actual - est),
                             ctypes.c_int64(tpm))
        assert reply.status == (1 if pool is self.flight else 2)
        self.same(reply)
        return reply.status

    def look(self):
        before = self.store.dump(self.user)
        reply = self.store.look(self.user, offset=self.offset,
                                epoch=self.epoch, n=self.u.n)
        assert self.store.dump(self.user) == before
        self.same(reply, self.rolled(self.epoch))
        return reply.status

    def beat(self):
        rids = [r for r in (*self.flight, *self.orphans)
                if self.rnd.random() < 0.5][:100]
        lost = self.store.beat(self.user, *rids)
        end = self.store.clock // 1000 + 60000
        for rid in rids:
            kept = self.flight.pop(rid, None) or self.orphans.pop(rid)
            self.flight[rid] = (end, kept[1])
        return lost


def months(lib, server):
    """Days and months of the civil calendar, in any zone."""

    store = Store(lib, server, 0)
    first = datetime(1970, 1, 1, tzinfo=timezone.utc)
    for year in (1999, 2000, 2023, 2024, 2026, 2099, 2100, 2101, 2199):
        for month in range(1, 13):
            for offset in (0, 50400, -39600, 20700):
                edge = datetime(year, month, 1, tzinfo=timezone.utc)
                for seconds in (-2, -1, 0, 1, DAY):
                    local = edge + timedelta(seconds=seconds)
                    utc = local - timedelta(seconds=offset)
                    store.clock = int((utc - first).total_seconds()) * 1000000
                    r = store.look("m", offset=offset)
                    assert r.day == (local - first).days
                    assert r.month == (local.year - 1970) * 12 + local.month - 1
                    assert r.minute == store.clock // 60000000


def month_end(lib, server):
    """Two seconds before a month's end, with users far east and west."""

    store = Store(lib, server, micros(2026, 1, 31, 23, 59, 58))
    limits = [-1, -1, -1, 10, 10]
    east, west = dict(offset=50400), dict(offset=-39600)
    for user, zone in (("e", east), ("u", {}), ("w", west)):
        assert store.reserve(user, "a", 10, limits, **zone).status == 1
        assert store.reserve(user, "b", 1, limits, **zone).limit == 3
    store.clock += 2000000
    r = store.reserve("u", "c", 10, limits)
    assert (r.status, r.month) == (1, 56 * 12 + 1)
    for user, zone, month in (("e", east, 1), ("w", west, 0)):
        r = store.reserve(user, "c", 1, limits, **zone)
        assert (r.limit, r.month) == (3, 56 * 12 + month)
    store.clock += 11 * 3600 * 1000000 - 1
    assert store.reserve("w", "d", 1, limits, **west).status == 0
    store.clock += 1
    assert store.reserve("w", "e", 10, limits, **west).status == 1


def life(lib, server):
    """Reserve, again, settle, once more; on the server's own clock."""

    store = Store(lib, server)
    limits = [2, 100, 1000, 5000, 9000]
    a = store.reserve("x", "a", 100, limits)
    assert (a.status, a.live, a.minute_tokens) == (1, 1, 100)
    assert abs(a.now - time.time() * 1e6) < 60e6
    assert a.n == a.now + 1
    before = store.dump("x")
    again = store.reserve("x", "a", 100, limits)
    assert (again.status, again.n, again.live) == (2, a.n, 1)
    assert store.dump("x") == before
    assert store.reserve("x", "b", 100, limits).live == 2
    c = store.reserve("x", "c", 100, limits)
    assert (c.status, c.limit, c.n, c.live) == (0, 0, a.n + 1, 2)
    s = store.settle("x", "a", 100, 30, windows(a), 1000)
    assert (s.status, s.day_tokens, s.n) == (1, 130, a.n + 2)
    before = store.dump("x")
    s = store.settle("x", "a", 100, 30, windows(a), 1000)
    assert (s.status, s.day_tokens, s.n) == (0, 130, a.n + 2)
    assert store.settle("y", "a", 100, 30, windows(a)).status == 0
    assert store.dump("x") == before
    assert store.client("EXISTS", *store.keys("y")) == 0

    late = store.reserve("x", "d", 1, deadline=a.now)
    assert late.status == 3 and store.dump("x") == before
    r = store.reserve("x", "d", 1, [2, -1, -1, -1, -1], live=2)
    assert (r.status, r.limit, r.live) == (0, 0, 2)
    look = store.look("x", n=a.n)
    assert (look.status, look.n, look.day_tokens) == (1, a.n + 2, 130)
    assert store.dump("x") == before


def orphans(lib, server):
    """Reservations that nobody kept alive, more of them than one call moves."""

    store = Store(lib, server, micros(2026, 5, 5))
    flight, orphaned = store.keys("x")[1:]
    kept = store.reserve("x", "kept", 5, ttl=10 ** 6)
    for i in range(100):
        first = store.reserve("x", f"r{i}", 5, ttl=1000)
    store.clock += 1000000
    limits = [30, -1, -1, -1, -1]
    r = store.reserve("x", "n", 5, limits)
    assert (r.status, r.limit, r.live) == (0, 0, 37)
    assert store.client("ZCARD", orphaned) == 64
    r = store.reserve("x", "n", 5, limits)
    assert (r.status, r.live, r.day_tokens) == (1, 2, 102 * 5)
    assert store.client("ZCARD", orphaned) == 100
    assert store.client("ZCARD", flight) == 2

    s = store.settle("x", "r1", 5, 2, windows(kept))
    assert (s.status, s.day_tokens) == (2, 102 * 5 - 3)
    assert store.settle("x", "r1", 5, 2, windows(kept)).status == 0

    # kept for a week

    store.clock += 7 * DAY * 1000000 + 1
    store.reserve("x", "n2", 5, ttl=1000)
    assert store.client("ZCARD", orphaned) == 2
    assert store.settle("x", "r2", 5, 2, windows(kept)).status == 0
    assert first.status == 1


def beats(lib, server):
    store = Store(lib, server, micros(2026, 5, 5))
    flight, orphaned = store.keys("x")[1:]
    r = store.reserve("x", "a", 5, ttl=1000)
    store.reserve("x", "b", 5, ttl=1000)
    assert store.beat("x") == 0
    assert store.beat("x", "a", "b") == 0
    store.clock += 59999000
    assert store.look("x").live == 2
    store.clock += 1000
    assert store.look("x").live == 0

    # late: it comes back from the orphans

    store.reserve("x", "c", 5)
    assert store.client("ZRANGE", orphaned, 0, -1) == ["a", "b"]
    assert store.beat("x", "a", deadline=store.clock - 1) == -1
    assert store.client("ZRANGE", orphaned, 0, -1) == ["a", "b"]
    assert store.beat("x", "a", deadline=store.clock) == 0
    assert store.client("ZRANGE", orphaned, 0, -1) == ["b"]
    assert store.look("x").live == 2

    # lost: it is put back, and settled once

    store.client("DEL", flight)
    assert store.beat("x", "a", "c") == 2
    assert store.client("TTL", flight) == 86460
    s = store.settle("x", "a", 5, 1, windows(r))
    assert (s.status, s.day_tokens) == (1, 11)
    assert store.beat("x", *(f"r{i}" for i in range(128))) == 128


def expiry(lib, server):
    """No key is without its end, whatever created it."""

    store = Store(lib, server, micros(2026, 5, 5))
    hash_, flight, orphaned = store.keys("x")

    def ends(*wanted):
        got = [store.client("TTL", key) for key in store.keys("x")]
        assert [g == w or g == w - 1 for g, w in zip(got, wanted)] \
            == [True] * 3, got

    r = store.reserve("x", "a", 5)
    ends(35 * DAY, DAY + 60, -2)
    store.settle("x", "a", 5, 5, windows(r))
    ends(35 * DAY, -2, -2)
    store.reserve("x", "b", 5, ttl=2000)
    ends(35 * DAY, DAY + 2, -2)
    for key in (hash_, flight):
        store.client("EXPIRE", key, 1000)
    store.clock += 60000000
    store.reserve("x", "c", 5)
    ends(35 * DAY, DAY + 60, 7 * DAY)
    store.client("FLUSHALL")
    store.settle("x", "a", 5, 5, windows(r), offline=1)
    ends(35 * DAY, -2, 7 * DAY)
    assert store.reserve("z", "a", 5, [0] * 5).status == 0
    assert store.client("TTL", store.keys("z")[0]) > 0


def offline(lib, server):
    """What was admitted without Redis is charged once."""

    store = Store(lib, server, micros(2026, 5, 5, 12))
    r = store.reserve("x", "seen", 10)
    store.settle("x", "seen", 10, 10, windows(r))
    w = windows(r)
    s = store.settle("x", "a", 50, 30, w, 100, offline=1)
    assert (s.status, s.day_tokens, s.minute_requests) == (1, 40, 2)
    assert s.tt == 18000000
    s = store.settle("x", "a", 50, 30, w, 100, offline=1)
    assert (s.status, s.day_tokens) == (0, 40)
    assert store.settle("x", "a", 50, 30, w, 100).status == 0

    # Redis had seen it after all: the estimate is corrected, once

    store.reserve("x", "b", 10)
    s = store.settle("x", "b", 10, 4, w, offline=1)
    assert (s.status, s.day_tokens, s.minute_requests) == (1, 44, 3)
    assert store.settle("x", "b", 10, 4, w, offline=1).status == 0

    # and as an orphan

    store.reserve("x", "c", 10, ttl=1)
    store.clock += 1000
    store.reserve("x", "d", 0, ttl=10 ** 9)
    s = store.settle("x", "c", 10, 4, w, offline=1)
    assert (s.status, s.day_tokens) == (2, 48)
    assert store.settle("x", "c", 10, 4, w, offline=1).status == 0

    # a later minute: the day's count; a later day: the month's

    store.clock += 60000000
    tt = store.look("x").tt
    s = store.settle("x", "e", 9, 9, w, 100, offline=1)
    assert (s.minute_requests, s.minute_tokens, s.day_tokens) == (0, 0, 57)
    assert s.tt == tt
    store.clock += DAY * 1000000
    s = store.settle("x", "f", 9, 9, w, offline=1)
    assert (s.day_tokens, s.month_tokens) == (0, 66)

    # a clock that is ahead charges the present, and moves nothing

    ahead = w[0], w[1] + 10 ** 6, w[2] + 900, w[3] + 30
    s = store.settle("x", "g", 9, 9, ahead, offline=1)
    assert (s.minute_tokens, s.day_tokens, s.month_tokens) == (9, 9, 75)
    assert s.minute == store.clock // 60000000

    # usage of an epoch that is over is nobody's

    store.reserve("x", "h", 1, epoch=1)
    s = store.settle("x", "i", 9, 9, windows(s), offline=1)
    assert (s.status, s.epoch, s.month_tokens) == (1, 1, 1)

    # a user of whom nothing is known

    s = store.settle("y", "a", 9, 9, windows(s), offline=1)
    assert (s.status, s.day_tokens) == (1, 9)


def epochs(lib, server):
    store = Store(lib, server, micros(2026, 5, 5, 12))
    limits = [-1, -1, -1, 10, -1]
    a = store.reserve("x", "a", 10, limits, epoch=1)
    for i in range(20):
        r = store.reserve("x", "b", 10, limits, epoch=i % 2, n=a.n)
        assert (r.status, r.epoch) == (0, 1)
    b = store.reserve("x", "b", 10, limits, epoch=2)
    assert (b.status, b.epoch, b.n) == (1, 2, a.n + 1)
    for i in range(20):
        r = store.reserve("x", "c", 10, limits, epoch=1 + i % 2, n=b.n)
        assert (r.status, r.epoch, r.n) == (0, 2, b.n)
    s = store.settle("x", "a", 10, 0, windows(a))
    assert (s.status, s.day_tokens) == (1, 10)

    # a change that is denied counts as well

    r = store.reserve("x", "d", 11, limits, epoch=3)
    assert (r.status, r.epoch, r.day_tokens) == (0, 3, 0)
    assert store.look("x", epoch=2).epoch == 3


def guard(lib, server):
    """What a gateway knows of a server that lost its data."""

    store = Store(lib, server, micros(2026, 5, 5, 12))
    limits = [-1, 100, 1000, 100, -1]
    r = None
    for i in range(5):
        r = store.reserve("x", f"a{i}", 15, limits, n=r.n if r else 0)
        assert r.status == 1
        store.clock += 1000
    old = r
    store.client("FLUSHALL")
    r = store.reserve("x", "b", 20, limits, n=old.n)
    assert r.status == 4
    assert store.client("DBSIZE") == 0
    assert store.look("x", n=old.n).status == 4
    look = store.look("x", n=old.n, guard=old.guard())
    assert (look.status, look.usage) == (1, old.usage)
    assert store.client("DBSIZE") == 0

    r = store.reserve("x", "b", 20, limits, n=old.n, guard=old.guard())
    assert (r.status, r.day_tokens, r.minute_requests) == (1, 95, 6)
    assert r.n > old.n

    # denied: what was healed stays

    store.client("FLUSHALL")
    d = store.reserve("x", "c", 20, limits, n=r.n, guard=r.guard())
    assert (d.status, d.limit, d.day_tokens) == (0, 3, 95)
    assert store.field("x", "du") == "95"
    d2 = store.reserve("x", "c", 20, limits, n=d.n)
    assert (d2.status, d2.n) == (0, d.n)

    # a window that is over is not brought back; tokens of the bucket are

    store.client("FLUSHALL")
    store.clock += 60000000
    h = store.reserve("x", "e", 1, n=d.n, guard=d.guard())
    assert (h.minute_tokens, h.day_tokens) == (1, 96)
    assert (h.rt, h.tt) == (d.rt, d.tt) and d.rt > 0 and d.tt > 0

    # of another epoch: it says nothing of this one

    store.client("FLUSHALL")
    store.reserve("x", "f", 1, epoch=2)
    r = store.reserve("x", "g", 1, epoch=1, n=h.n)
    assert (r.status, r.epoch, r.day_tokens) == (1, 2, 2)


def healing(lib, server):
    """Three gateways heal one after another: their operations add up, even
    where the numbers given out since pass those they know."""

    store = Store(lib, server, micros(2026, 5, 5, 12))
    known = []
    for i in range(3):
        for j in range(4):
            r = store.reserve("x", f"{i}.{j}", 10)
        known.append(r)
        store.clock += 500
    assert r.day_tokens == 120

    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)):
        store.client("FLUSHALL")
        used = 0
        for i in order:
            old = known[i]
            for j in range(50):
                r = store.reserve("x", f"{i}+{j}", 1, n=old.n,
                                  guard=old.guard())
                assert r.status == 1
                old = r
                used += 1
        assert r.day_tokens == 120 + used, (order, r.usage)
        assert r.month_tokens == 120 + used
        assert r.minute_requests == 12 + used

        # all of them know it now

        r = store.reserve("x", "z", 1, n=r.n)
        assert r.status == 1


def pause(lib, server):
    """After a loss nothing is admitted until others have told what they know
    and hold; an older loss, or a restart without one, stops nobody."""

    store = Store(lib, server, micros(2026, 5, 5, 12), pause=True)
    limits = [2, -1, -1, 100, -1]
    a = store.reserve("x", "a1", 10, limits)
    b = store.reserve("x", "b1", 15, limits, n=a.n)
    assert (a.status, b.status, b.live) == (1, 1, 2)

    store.clock += 1000
    store.client("FLUSHALL")
    r = store.reserve("x", "a2", 10, limits, n=a.n, live=1)
    assert r.status == 4
    r = store.reserve("x", "a2", 10, limits, n=a.n, live=1, guard=a.guard())
    assert (r.status, r.day_tokens) == (5, 10)
    assert store.field("x", "du") == "10"
    assert store.beat("x", "a1") == 1

    # one that knows nothing has to wait as well

    assert store.reserve("x", "c1", 10, limits).status == 5

    store.clock += 1000000
    r = store.reserve("x", "b2", 10, limits, n=b.n, live=1, guard=b.guard())
    assert (r.status, r.day_tokens) == (5, 25)
    assert store.beat("x", "b1") == 1

    store.clock += 999999
    assert store.reserve("x", "c1", 10, limits).status == 5

    store.clock += 1
    r = store.reserve("x", "c1", 10, limits)
    assert (r.status, r.limit, r.live, r.day_tokens) == (0, 0, 2, 25), (
        r.status, r.limit, r.live, r.day_tokens)
    store.settle("x", "a1", 10, 7, windows(a))
    r = store.reserve("x", "c1", 10, limits)
    assert (r.status, r.day_tokens) == (1, 32)

    # a restart that lost nothing, and a clock that was set back

    assert store.reserve("x", "d1", 1, run="f" * 40, n=r.n).status == 1
    store.clock -= 5000000
    assert store.reserve("x", "d2", 1, run="f" * 40, n=r.n).status == 1


def settles_first(lib, server):
    """A gateway that has not told yet what it knows learns nothing by
    settling: it would take what others made of the loss for all there is."""

    store = Store(lib, server, micros(2026, 5, 5, 12))
    a = store.reserve("x", "a", 10)
    b = store.reserve("x", "b", 10)
    s = store.settle("x", "a", 10, 10, windows(a), n=b.n)
    assert (s.status, s.n) == (1, b.n + 1)
    store.clock += 1000
    store.client("DEL", store.keys("x")[0])
    s = store.settle("x", "c", 10, 10, windows(a), n=b.n)
    assert (s.status, s.n) == (0, 0)
    r = store.reserve("x", "c", 1, n=a.n, guard=a.guard())
    assert r.day_tokens == 11
    for status in (1, 0):
        s = store.settle("x", "b", 10, 4, windows(b), n=b.n)
        assert (s.status, s.n, s.day_tokens) == (status, 0, 5)
    r = store.settle("x", "c", 1, 1, windows(r), n=r.n)
    assert r.status == 1 and r.n > 0
    store.reserve("x", "d", 1, n=r.n)
    again = store.reserve("x", "d", 1, n=b.n)
    assert (again.status, again.n) == (2, 0)
    r = store.reserve("x", "e", 1, n=b.n, guard=b.guard())
    assert r.day_tokens == 20 + 1 - 6 + 1 + 1


def riders(lib, server):
    """Settlements that ride with a question: first they, then it."""

    def rider(rid, reply, actual, est=10):
        return (rid, actual - est, *windows(reply)[1:], -1)

    store = Store(lib, server, micros(2026, 5, 5, 12), pause=True)
    one = [1, -1, -1, 12, -1]
    a = store.reserve("x", "a", 10, one)
    assert (a.status, a.settled) == (1, 0)
    assert store.reserve("x", "b", 10, one).limit == 0

    # what it gives back is there for the question: the place, and tokens

    b = store.reserve("x", "b", 10, one, n=a.n, riders=[rider("a", a, 2)])
    assert (b.status, b.settled, b.live, b.day_tokens) == (1, 1, 1, 12)
    assert b.n == a.n + 2

    # settled even if the question is refused

    c = store.reserve("x", "c", 11, one, n=b.n, riders=[rider("b", b, 9)])
    assert (c.status, c.limit, c.settled, c.live) == (0, 3, 1, 0)
    assert (c.day_tokens, c.n) == (11, b.n + 1)
    assert store.field("x", "du") == "11"

    # once; what is unknown or an orphan by now is for SETTLE

    store.reserve("x", "lost", 10, ttl=1000)
    store.clock += 2000000
    d = store.reserve("x", "d", 10)
    e = store.reserve("x", "e", 10, riders=[
        rider("b", b, 9), rider("d", d, 1), rider("lost", d, 0),
        rider("never", d, 0), rider("d", d, 1)])
    assert (e.status, e.settled, e.live, e.day_tokens) == (1, 2, 1, 32)

    # of an expired one that nobody has moved yet there is no orphan

    f = store.reserve("y", "f", 10, ttl=1000)
    store.clock += 2000000
    g = store.reserve("y", "g", 10, riders=[rider("f", f, 3)])
    assert (g.settled, g.live, g.day_tokens) == (1, 1, 13)
    assert store.client("EXISTS", store.keys("y")[2]) == 0

    # none of them where anything is out of the ordinary

    def untouched(**more):
        before = store.client("ZRANGE", store.keys("y")[1], 0, -1)
        reply = store.reserve("y", more.pop("rid", "z"), more.pop("est", 10),
                              riders=[rider("g", g, 3)], **more)
        assert reply.settled == 0
        after = store.client("ZRANGE", store.keys("y")[1], 0, -1)
        assert set(before) <= set(after)
        store.client("ZREM", store.keys("y")[1], "z")
        return reply

    assert untouched(deadline=store.clock - 1).status == 3
    assert untouched(rid="g").status == 2
    assert untouched(est=-1).status == 1
    assert untouched(n=g.n + 100).status == 4
    assert untouched(epoch=1).status == 1
    assert untouched(epoch=0).status == 1
    assert untouched(run="another").status == 1
    store.client("FLUSHALL")
    n = g.n + 200
    h = store.reserve("y", "h", 10, n=n, guard=g.guard())
    assert h.status == 5
    store.client("ZADD", store.keys("y")[1], 10 ** 15, "g")
    assert untouched(n=h.n).status == 5


def rewind(lib, server):
    """A server that comes back with what it had saved before."""

    store = Store(lib, server, micros(2026, 5, 5, 12))
    a = store.reserve("x", "a", 10)
    store.reserve("x", "b", 10)
    store.client("SAVE")
    c = store.reserve("x", "c", 10)
    d = store.reserve("x", "d", 10)
    assert d.day_tokens == 40
    server.crash()
    server.start()
    store = Store(lib, server, store.clock + 1000)

    # Settlements come first: one of what was restored, one of what was lost,
    # one that only a file knew.  Then the gateway that saw least.

    s = store.settle("x", "a", 10, 3, windows(a))
    assert (s.status, s.day_tokens) == (1, 13)
    assert store.settle("x", "d", 10, 3, windows(a)).status == 0
    s = store.settle("x", "e", 7, 7, windows(a), offline=1)
    assert s.day_tokens == 20
    r = store.reserve("x", "f", 1, n=a.n)
    assert (r.status, r.day_tokens) == (1, 21)
    r = store.reserve("x", "g", 1, n=c.n)
    assert r.status == 4

    # who would ride with that question stays: its counts are not written

    r = store.reserve("x", "g", 1, n=c.n, riders=[
        ("b", 3 - 10, *windows(a)[1:], -1)])
    assert (r.status, r.settled) == (4, 0)
    assert store.client("ZSCORE", store.keys("x")[1], "b")

    r = store.reserve("x", "g", 1, n=c.n, guard=c.guard())
    assert r.day_tokens == 30 - 7 + 7 + 1 + 1
    r = store.reserve("x", "h", 1, n=d.n, guard=d.guard())
    assert r.day_tokens == 40 - 7 + 7 + 1 + 1 + 1
    assert store.reserve("x", "i", 1, n=d.n).status == 1

    # a clean restart loses nothing, and asks for nothing

    store.client("SAVE")
    r = store.look("x", n=d.n)
    server.crash()
    server.start()
    store = Store(lib, server, store.clock + 1000)
    r2 = store.reserve("x", "j", 1, n=r.n)
    assert (r2.status, r2.day_tokens) == (1, r.day_tokens + 1)


def unknown_run(lib, server):
    """Without a run id the larger count it is."""

    store = Store(lib, server, micros(2026, 5, 5, 12))
    store.reserve("x", "a", 10, run="")
    store.client("SAVE")
    b = store.reserve("x", "b", 10, run="")
    c = store.reserve("x", "c", 10, run="")
    server.crash()
    server.start()
    store = Store(lib, server, store.clock + 1000)
    assert store.reserve("x", "d", 1, run="", n=c.n).status == 4
    r = store.reserve("x", "d", 1, run="", n=c.n, guard=c.guard())
    assert (r.status, r.day_tokens) == (1, 31)
    r = store.reserve("x", "e", 1, run="", n=b.n)
    assert (r.status, r.day_tokens) == (1, 32)

    # the other order: what is charged in between is counted on top

    server.crash()
    server.start()
    store = Store(lib, server, store.clock + 1000)
    store.reserve("x", "d", 1, run="", n=b.n, guard=b.guard())
    r = store.reserve("x", "e", 1, run="", n=c.n)
    assert r.status == 4
    r = store.reserve("x", "e", 1, run="", n=c.n, guard=c.guard())
    assert (r.status, r.day_tokens) == (1, 32)


def property_(lib, server):
    """Gateways at random, with losses of all or of the newest data: once all
    have come back, no less is counted than was used; the day's limit holds."""

    rnd = random.Random(SEED + 1)
    for life_ in range(12):
        server.client("FLUSHALL")
        server.client("SAVE")
        Gateways(lib, server, rnd).play()


class Gateways:

    LIMIT = 100000

    def __init__(self, lib, server, rnd):
        self.lib, self.server, self.rnd = lib, server, rnd
        self.store = Store(lib, server, micros(2026, 5, 5, 1))
        self.known = [None] * 3
        self.open = [{} for _ in range(3)]
        self.used = 0                  # settled, and estimates of open ones
        self.heard = set()
        self.numbers = 0
        self.wiped = False

    def learn(self, i, reply):
        if reply.status != 4 and (not self.known[i]
                                  or reply.n > self.known[i].n):
            self.known[i] = reply

    def reserve(self, i):
        est = self.rnd.randrange(1, 400)
        rid = f"{i}-{self.numbers}"
        self.numbers += 1
        more = dict(limits=[-1, -1, -1, self.LIMIT, -1], ttl=10 ** 8)
        known = self.known[i]
        if known:
            more["n"] = known.n
        r = self.store.reserve("x", rid, est, **more)
        if r.status == 4:
            r = self.store.reserve("x", rid, est, guard=known.guard(), **more)
        self.learn(i, r)
        self.heard.add(i)
        if r.status == 1:
            self.used += est
            self.open[i][rid] = (est, windows(r))
        return r

    def settle(self, i):
        if not self.open[i]:
            return
        rid = self.rnd.choice(list(self.open[i]))
        est, w = self.open[i].pop(rid)
        actual = self.rnd.randrange(est + 1)
        self.used -= est - actual
        n = self.known[i].n
        self.learn(i, self.store.settle("x", rid, est, actual, w, n=n))

    def lose(self):
        rnd = self.rnd
        kind = rnd.random()
        if kind < 0.3:
            self.store.client("FLUSHALL")
        elif kind < 0.6:
            self.store.client("DEL", self.store.keys("x")[0])
        else:
            self.server.crash()
            self.server.start()
            self.store = Store(self.lib, self.server, self.store.clock)
        self.heard.clear()

    def play(self):
        rnd, denied = self.rnd, 0
        while denied < 30:
            self.store.clock += rnd.randrange(1, 200000)
            i = rnd.randrange(3)
            kind = rnd.random()
            if kind < 0.6:
                r = self.reserve(i)
                denied += r.status == 0
                if len(self.heard) == 3:
                    assert r.day_tokens >= self.used, (r.usage, self.used)
            elif kind < 0.97:
                self.settle(i)
            elif kind < 0.98:
                self.store.beat("x", *list(self.open[i])[:100], ttl=10 ** 8)
            elif kind < 0.99:
                self.store.client("SAVE")
            elif self.used < self.LIMIT * 0.9 and len(self.heard) == 3:
                self.lose()
            assert self.used <= self.LIMIT
        assert self.used > self.LIMIT * 0.7


def script_flush(lib, server):
    store = Store(lib, server)
    r = store.reserve("x", "a", 5)
    store.client("SCRIPT", "FLUSH")
    fails("NOSCRIPT", store.settle, "x", "a", 5, 5, windows(r))
    store.load()
    assert store.settle("x", "a", 5, 5, windows(r)).status == 1


def no_memory(lib, server):
    """Nothing is half done; what frees goes on."""

    store = Store(lib, server)
    r = store.reserve("x", "a", 5)
    store.reserve("x", "b", 5, ttl=10 ** 7)
    store.reserve("y", "e", 5, ttl=10 ** 7)
    d = store.reserve("x", "dead", 5, ttl=1)
    while store.look("x").live == 3:
        pass
    store.client("CONFIG", "SET", "maxmemory-policy", "noeviction")
    store.client("CONFIG", "SET", "maxmemory", "1mb")
    try:
        before = store.dump("x")
        fails("OOM", store.reserve, "x", "c", 5)
        fails("OOM", store.reserve, "x", "c", 5, [0] * 5)
        fails("OOM", store.reserve, "new", "c", 5)
        assert store.dump("x") == before
        assert store.look("x").status == 1
        s = store.settle("x", "a", 5, 2, windows(r))
        assert (s.status, s.day_tokens) == (1, 12)
        assert store.settle("x", "a", 5, 2, windows(r)).status == 0
        s = store.reserve("x", "c", 5, [-1, -1, -1, 0, -1], riders=[
            ("b", 1 - 5, *windows(r)[1:], -1)])
        assert (s.status, s.settled, s.day_tokens) == (0, 1, 8)

        # what a rider frees is there for the question

        s = store.reserve("y", "f", 5, riders=[
            ("e", 1 - 5, *windows(r)[1:], -1)])
        assert (s.status, s.settled, s.live, s.day_tokens) == (1, 1, 1, 6)
        before = store.dump("x")
        fails("OOM", store.settle, "x", "o", 5, 2, windows(r), offline=1)
        assert store.dump("x") == before
    finally:
        store.client("CONFIG", "SET", "maxmemory", "0")
    assert store.settle("x", "o", 5, 2, windows(r), offline=1).status == 1
    assert store.reserve("x", "c", 5).status == 1
    assert store.settle("x", "dead", 5, 2, windows(d)).status == 2


def beat_without_memory(lib, server):
    store = Store(lib, server)
    store.reserve("x", "a", 5, ttl=10 ** 7)
    store.client("CONFIG", "SET", "maxmemory", "1mb")
    try:
        flight = store.keys("x")[1]
        before = store.client("ZSCORE", flight, "a")
        assert store.beat("x", "a", ttl=10 ** 8) == 0
        assert store.client("ZSCORE", flight, "a") > before
    finally:
        store.client("CONFIG", "SET", "maxmemory", "0")


def read_only(lib, server):
    store = Store(lib, server)
    r = store.reserve("x", "a", 5)
    before = store.dump("x")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        store.client("REPLICAOF", "127.0.0.1", s.getsockname()[1])
        try:
            fails("READONLY", store.reserve, "x", "b", 5)
            fails("READONLY", store.settle, "x", "a", 5, 2, windows(r))
            fails("READONLY", store.settle, "x", "o", 5, 2, windows(r),
                  offline=1)
            fails("READONLY", store.beat, "x", "a")
            assert store.look("x").day_tokens == 5
            assert store.dump("x") == before
        finally:
            store.client("REPLICAOF", "NO", "ONE")
    assert store.settle("x", "a", 5, 2, windows(r)).status == 1


def every_way(store):
    """Calls each command of the scripts."""

    a = store.reserve("x", "a", 5, ttl=1)
    while store.look("x").live:
        pass
    store.reserve("x", "b", 5)
    assert store.beat("x", "b") == 0
    assert store.settle("x", "a", 5, 5, windows(a)).status == 2
    assert store.settle("x", "b", 5, 5, windows(a)).status == 1
    assert store.settle("x", "c", 5, 5, windows(a), offline=1).status == 1


def least_privilege(lib, server):
    """The commands that the header lists are enough, and all are needed."""

    rights = ["reset", "on", ">pw", "~clawd:*", "&__redis__:invalidate",
              "-@all", "+select", "+evalsha", "+script|load",
              "+script|exists", "+hgetall", "+ping", "+info",
              "+client|tracking", "+client|id", "+subscribe"]
    header = (ROOT / "src/ledger/ngx_http_clawd_scripts.h").read_text()
    listed = header.split("Commands that are called:")[1].split("*/")[0]
    listed = listed.replace("*", " ").replace(".", " ").lower().split()
    assert sorted(listed) == sorted(COMMANDS)

    for missing in [None, *COMMANDS]:
        server.client("FLUSHALL")
        server.client("ACL", "SETUSER", "gate", *rights,
                      *(f"+{c}" for c in COMMANDS if c != missing))
        client = Client(server.port)
        try:
            client("AUTH", "gate", "pw")
            store = Store(lib, server, client=client)
            if missing is None:
                every_way(store)
                continue
            try:
                every_way(store)
            except RedisError as e:
                assert "can't run this command" in str(e), e
            else:
                raise AssertionError(f"{missing} is not needed")
        finally:
            client.close()


def cluster(lib, _):
    """Keys are declared, and of one slot."""

    server = Server("--cluster-enabled", "yes")
    try:
        server.client("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while "cluster_state:ok" not in server.client("CLUSTER", "INFO"):
            time.sleep(0.01)
        every_way(Store(lib, server))
    finally:
        server.stop()


def numbers_in_full(lib, server):
    """No exponent, no fraction, up to 2^53."""

    store = Store(lib, server, micros(2199, 12, 31))
    r = store.reserve("x", "a", MAX, [-1, 7, -1, -1, -1])
    assert r.day_tokens == MAX
    r = store.reserve("x", "b", 3, [-1, 7, 3 * 10 ** 8, -1, -1])
    assert r.limit == 2
    store.settle("x", "a", 0, MAX, windows(r), 1)
    values = store.dump("x")[0]
    pairs = dict(zip(values[::2], values[1::2]))
    del pairs["rn"]
    assert pairs.pop("bs") == ""
    assert all(v.isdigit() for v in pairs.values()), pairs

    # where a whole limit's share of the minute would be rounded beyond it

    for limit in (346409393503, 999999999975):
        assert limit * 60000000.0 / limit > 60000000
        limits = [-1, -1, limit, -1, -1]
        assert store.reserve(limit, "a", limit, limits).status == 1
        assert store.reserve(limit, "b", 1, limits).limit == 2


CASES = [months, month_end, life, orphans, beats, expiry, offline, epochs,
         guard, healing, pause, settles_first, riders, rewind,
         unknown_run, property_, script_flush, no_memory, beat_without_memory, read_only,
         least_privilege, cluster, numbers_in_full, differential]


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    passed = failed = 0
    folder = Path(tempfile.mkdtemp(prefix="clawd-scripts-"))
    print(f"seed {SEED}, {OPERATIONS} operations")
    server = None
    try:
        lib = library(folder)
        server = Server()
        for case in CASES:
            server.client("FLUSHALL")
            start = time.monotonic()
            try:
                case(lib, server)
                passed += 1
                verdict = "ok    "
            except Exception:
                failed += 1
                verdict = "FAILED"
                traceback.print_exc(limit=-6)
                server.stop()
                server = Server()
            print(f"{verdict} {case.__name__.rstrip('_')}"
                  f" ({time.monotonic() - start:.1f} s)", flush=True)
    finally:
        if server:
            server.stop()
        shutil.rmtree(folder)

    print(f"scripts: {passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


sys.exit(main())
