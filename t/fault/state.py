#!/usr/bin/env python3
"""The store in the zone and its file, where a process dies or a configuration
changes at the worst moment: a library that is loaded before all others holds
back the file's rename, and moves the clock.

    python3 t/fault/state.py [PART...]
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness import (Folder, Gateway, Report, Stream, Upstream, noon_zone,
                     wait_for)

# rename() waits while there is a file GATE, and notes in SAVERS whose it is;
# the clock is CLOCK seconds off.

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

int
rename(const char *from, const char *to)
{
    static int (*next)(const char *, const char *);

    int  fd;

    if (next == NULL) {
        *(void **) &next = dlsym(RTLD_NEXT, "rename");
    }

    if (strstr(to, "state") == NULL) {
        return next(from, to);
    }

    while (access(getenv("GATE"), F_OK) == 0) {
        usleep(1000);
    }

    /* who has written it */

    fd = open(getenv("SAVERS"), O_WRONLY|O_CREAT|O_APPEND|O_CLOEXEC, 0666);

    if (fd != -1) {
        dprintf(fd, "%d\n", (int) getpid());
        close(fd);
    }

    return next(from, to);
}

int
gettimeofday(struct timeval *tv, void *tz)
{
    static int (*next)(struct timeval *, void *);

    int   fd, rc;
    char  text[32];

    if (next == NULL) {
        *(void **) &next = dlsym(RTLD_NEXT, "gettimeofday");
    }

    rc = next(tv, tz);

    fd = open(getenv("CLOCK"), O_RDONLY|O_CLOEXEC);

    if (fd != -1) {
        memset(text, 0, sizeof(text));

        if (read(fd, text, sizeof(text) - 1) > 0) {
            tv->tv_sec += atol(text);
        }

        close(fd);
    }

    return rc;
}
"""


class Scene:

    def __init__(self, report, http, state=None, size="4m", on=True):
        self.report = report
        self.dir = Folder("state").path
        self.gate = self.dir / "gate"
        self.clock = self.dir / "clock"
        self.savers = self.dir / "savers"
        self.upstream = Upstream()

        shim = self.dir / "shim.c"
        shim.write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", self.dir / "shim.so",
                        shim, "-ldl"], check=True)

        os.environ["GATE"] = str(self.gate)
        os.environ["CLOCK"] = str(self.clock)
        os.environ["SAVERS"] = str(self.savers)

        self.gateway = Gateway(self.upstream, None, 1, http=http, state=state)
        self.conf = self.gateway.dir / "nginx.conf"
        self.edit("pid ", "env GATE;\nenv CLOCK;\nenv SAVERS;\npid ")
        self.edit("clawd:4m", f"clawd:{size}")

        if not on:
            self.edit("clawd_state ", "#clawd_state ")

    def edit(self, old, new):
        text = self.conf.read_text()
        assert old in text, old
        self.conf.write_text(text.replace(old, new, 1))

    def start(self, wait=True):
        os.environ["LD_PRELOAD"] = str(self.dir / "shim.so")
        try:
            self.gateway.start(wait)
        finally:
            del os.environ["LD_PRELOAD"]
        return self

    def reload(self):
        """By the log: the worker that serves then is a new one."""

        before = self.gateway.workers()
        self.gateway.reload()
        wait_for("new workers", lambda: self.gateway.workers()
                 and not set(self.gateway.workers()) & set(before))

    def now(self, offset):
        self.clock.write_text(str(int(offset)))
        time.sleep(0.15)          # the loop's own clock follows its events

    def chat(self, user, max_tokens=20, script="fast", timeout=15):
        return self.gateway.chat(f"token-of-{user}", user=user, script=script,
                                 max_tokens=max_tokens, timeout=timeout)

    def later(self, *args, **named):
        """A request that waits, in a thread of its own."""

        box = []

        def run():
            try:
                box.append(self.chat(*args, **named).status)
            except OSError:
                box.append(0)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return box

    def used(self, user, limit="tokens_per_day"):
        told = self.gateway.get("/v1/usage", f"token-of-{user}").json()
        return next(one["used"] for one in told["limits"]
                    if one["name"] == limit)

    def kept(self, user):
        """Of the file."""

        users = json.loads(self.gateway.state.read_text())["users"]
        return users.get(user, {}).get("day_tokens", 0)

    def writing(self):
        wait_for("a save", lambda: self.gateway.state.with_name(
            self.gateway.state.name + ".tmp").exists())

    def close(self, clean=True):
        self.gateway.stop()
        if clean:
            self.report.clean(self.gateway)


def plans(**limits):
    text = " ".join(f"{name}={value}" for name, value in limits.items())
    return (f"clawd_quota small {text};\n"
            "clawd_token token-of-alice user=alice plan=small;\n"
            "clawd_token token-of-bob user=bob plan=small;")


def asked(report):
    """A worker dies while its request waits for the file."""

    scene = Scene(report, plans(tokens_per_day=100000, tz=noon_zone()),
                  size="256k").start()

    # each place of the table has been alice's once

    for _ in range(300):
        scene.chat("alice", script="fast tokens=10,10")

    report.equal("used", scene.used("alice"), 6000)
    scene.gate.touch()
    box = scene.later("alice", 60000)
    scene.writing()
    scene.gateway.kill_worker(scene.gateway.workers()[0])
    wait_for("the end of the request", lambda: box)
    scene.gate.unlink()
    wait_for("a new worker", lambda: scene.gateway.workers()
             and scene.gateway.page())
    time.sleep(1.2)               # two rounds of the reaper
    report.equal("what had not been charged is not given back",
                 scene.used("alice"), 6000)
    scene.close()


def lowered(report):
    """A save lowers a ceiling under which a request is admitted meanwhile."""

    scene = Scene(report, plans(tokens_per_day=32000, tz=noon_zone())).start()
    scene.chat("alice", 8000, script="fast tokens=10,10")
    wait_for("the settlement", lambda: scene.used("alice") == 20)
    scene.gate.touch()
    bob = scene.later("bob")
    scene.writing()
    alice = scene.later("alice", 8000, script="hold=20")
    time.sleep(0.5)
    scene.gate.unlink()
    wait_for("the other request", lambda: bob)
    wait_for("the request", lambda: scene.upstream.live("alice"))
    used, kept = scene.used("alice"), scene.kept("alice")
    report.check("the file allows for what is admitted", kept >= used >= 8000,
                 f"{kept} for {used}")
    scene.gateway.kill()
    scene.start()
    report.check("and says so after a crash", scene.used("alice") >= used)
    del alice
    scene.close()


def west(report):
    """Midnight of UTC is not that of a user west of it, who is not there."""

    scene = Scene(report, "clawd_quota small tokens_per_day=10000 tz=-10:00;\n"
                  "clawd_quota other tokens_per_day=1000 tz=UTC;\n"
                  "clawd_token token-of-alice user=alice plan=small;\n"
                  "clawd_token token-of-bob user=bob plan=other;")
    midnight = 86400 - int(time.time()) % 86400

    scene.now(midnight - 3600)
    scene.start()
    for _ in range(30):
        scene.chat("alice", 300, script="tokens=30,200")
    used = scene.used("alice")
    scene.gateway.stop()
    scene.start()
    scene.now(midnight + 1800)
    report.equal("bob's request brings a save", scene.chat("bob").status, 200)
    scene.gateway.kill()
    scene.start()
    report.check("alice's day is not over", scene.used("alice") >= used > 0,
                 f"{scene.used('alice')}, not less than {used}")
    scene.close()


def back(report):
    """The clock is set back behind the minute that a user is charged to."""

    scene = Scene(report, plans(rpm=1000, tokens_per_day=100000))
    soon = 65 - time.time() % 60
    scene.now(soon)
    scene.start()
    report.equal("a request", scene.chat("alice").status, 200)
    scene.now(soon - 20)
    report.equal("one that brings a save", scene.chat("bob").status, 200)
    began = time.monotonic()
    report.equal("another, twenty seconds earlier",
                 scene.chat("alice").status, 200)
    report.check("at once", time.monotonic() - began < 2)
    scene.close()


def damaged(report):
    """A reload names a file that can't be read."""

    scene = Scene(report, plans(tokens_per_day=10000), on=False).start()
    scene.gateway.state.write_text("{ no state")
    scene.edit("#clawd_state ", "clawd_state ")
    scene.gateway.reload()
    report.soon("the reload is refused",
                lambda: "is damaged in line" in scene.gateway.error_log())
    time.sleep(0.3)
    report.check("the master lives", scene.gateway.process.poll() is None)
    report.equal("and requests are answered", scene.chat("alice").status, 200)
    scene.close(clean=False)


def added(report):
    """A reload names a file that is behind what is known."""

    scene = Scene(report, plans(tokens_per_day=10000, tz=noon_zone()),
                  on=False).start()
    for _ in range(10):
        scene.chat("alice", 300, script="tokens=30,200")
    used = scene.used("alice")
    usage = {"epoch": 0, "n": 1, "request_tat": 0, "token_tat": 0,
             "minute": 1, "minute_requests": 0, "minute_tokens": 0,
             "day": 1, "day_tokens": 5, "month": 1, "month_tokens": 5}
    day = int((time.time() + 3600 * int(noon_zone()[:3])) // 86400)
    usage["day"] = day
    scene.gateway.state.write_text(json.dumps(
        {"clawd": 1, "minute": -1, "users": {"alice": usage}}))
    scene.edit("#clawd_state ", "clawd_state ")
    scene.reload()
    report.equal("the larger count holds", scene.used("alice"), used)
    report.check("and is in the file", scene.kept("alice") >= used > 0)
    scene.gateway.kill()
    scene.start()
    report.check("also after a crash", scene.used("alice") >= used)

    other = scene.gateway.state.with_name("another")
    scene.edit(f"clawd_state {scene.gateway.state}", f"clawd_state {other}")
    scene.reload()
    scene.gateway.kill()
    scene.start()
    report.check("a file of another name knows what was used",
                 scene.used("alice") >= used)
    scene.close()


def fails(report):
    """No file can be written: it is said, but not with each request."""

    scene = Scene(report, plans(tokens_per_day=10000)).start()
    tmp = scene.gateway.state.with_name(scene.gateway.state.name + ".tmp")
    tmp.mkdir()
    began = time.monotonic()
    boxes = [scene.later("alice") for _ in range(20)]
    wait_for("the refusals", lambda: all(boxes), 20)
    report.check("nobody waits for it", time.monotonic() - began < 3)
    report.check("nothing is admitted", all(box == [503] for box in boxes))
    told = scene.gateway.error_log().count("can't be saved")
    report.check("which is told", 1 <= told <= 10, f"{told} lines")
    tmp.rmdir()
    report.equal("until it can", scene.chat("alice").status, 200)
    scene.close()


def manager(report):
    """Who writes the file dies in the middle of it; then it stands still."""

    scene = Scene(report, plans(tokens_per_day=100000, tz=noon_zone())).start()
    report.equal("a request", scene.chat("alice").status, 200)

    for pid in scene.gateway.workers():
        status = open(f"/proc/{pid}/status").read()
        report.check("a worker has no threads", "Threads:\t1\n" in status)

    scene.gate.touch()
    box = scene.later("alice", 60000)
    scene.writing()
    first = scene.gateway.manager()
    os.kill(first, signal.SIGKILL)
    wait_for("another manager",
             lambda: scene.gateway.manager() not in (None, first))
    report.check("the request waits", not box)
    scene.gate.unlink()
    wait_for("the end of the request", lambda: box)
    report.equal("another one writes the file", box, [200])
    wait_for("the settlement", lambda: scene.used("alice") < 60000)

    os.kill(scene.gateway.manager(), signal.SIGSTOP)
    few = "fast tokens=10,10"
    report.equal("without one a worker does",
                 scene.chat("bob", 60000, few).status, 200)
    report.check("which is in the file", scene.kept("bob") >= 60000)
    os.kill(scene.gateway.manager(), signal.SIGCONT)

    # when NGINX ends the manager does at once, and who is served not yet

    late = Stream(scene.gateway, "token-of-bob", "bob", few, slow=True,
                  max_tokens=90000)
    wait_for("it and the scrape", lambda: scene.gateway.metric(
        "clawdbot_nginx_connections", state="writing") == 2)
    scene.gateway.process.send_signal(signal.SIGQUIT)
    wait_for("the manager's end", lambda: scene.gateway.manager() is None)
    late.finish()
    report.equal("the last one is served", late.status(), 200)
    late.to_end()
    late.close()
    scene.close()


def slow(report):
    """A disk takes its time: the workers leave it to the manager all the same.
    """

    scene = Scene(report, plans(tokens_per_day=100000, tz=noon_zone())).start()
    few = "fast tokens=10,10"
    others = 0
    for tokens in (3000, 10000, 24000, 52000):   # each is past the ceilings
        scene.savers.unlink(missing_ok=True)
        scene.gate.touch()
        boxes = [scene.later("alice", tokens, few)]
        scene.writing()
        boxes.append(scene.later("bob", tokens, few))
        time.sleep(0.5)           # longer than a manager is waited for
        scene.gate.unlink()
        wait_for("the requests", lambda: all(boxes))
        report.equal("both are served", boxes, [[200], [200]])
        others += (set(scene.savers.read_text().split())
                   != {str(scene.gateway.manager())})

    # a machine that stands still may hold up the manager for so long once

    report.check("by the manager alone", others <= 1, f"{others} of 4 not")
    scene.close()


def room(report):
    """The file keeps no room for a request that is over."""

    scene = Scene(report, plans(tokens_per_day=100000, tz=noon_zone())).start()
    few = "fast tokens=10,10"
    scene.gate.touch()
    box = scene.later("alice", 60000, few)
    scene.writing()
    time.sleep(0.1)               # it asks again and again meanwhile
    scene.gate.unlink()
    wait_for("the request", lambda: box)
    wait_for("the settlement", lambda: scene.used("alice") == 20)
    report.equal("another brings a save", scene.chat("bob", 20, few).status,
                 200)
    report.check("a 32nd of the limit is left", scene.kept("alice") <= 3145,
                 scene.kept("alice"))
    scene.close()


def hangs(report):
    """A disk hangs: nobody waits for ever, nor holds a place who has left."""

    scene = Scene(report, plans(tokens_per_day=100000, concurrency=2,
                                tz=noon_zone())).start()
    scene.gate.touch()
    stays = scene.later("alice")
    scene.writing()
    leaves = Stream(scene.gateway, "token-of-alice", "alice")
    wait_for("both, and the scrape", lambda: scene.gateway.metric(
        "clawdbot_nginx_connections", state="writing") == 3)
    leaves.close()
    wait_for("the refusal", lambda: stays, 20)
    report.equal("who waits is refused in the end", stays, [503])
    wait_for("the end of both", lambda: scene.gateway.metric(
        "clawdbot_nginx_connections", state="writing") == 1)
    scene.gate.unlink()
    boxes = [scene.later("alice") for _ in range(2)]
    wait_for("the requests", lambda: all(boxes))
    report.equal("and both places are free", boxes, [[200], [200]])
    scene.close()


def past(report):
    """More than was reserved goes to the file without another request."""

    scene = Scene(report, plans(tokens_per_day=100000, tz=noon_zone())).start()
    scene.chat("alice", 20, "fast tokens=10,30000")
    wait_for("the settlement", lambda: scene.used("alice") == 30010)
    report.soon("the file tells of it", lambda: scene.kept("alice") >= 30010)
    scene.close()


def resized(report):
    """A reload brings a larger zone: the old one must not write its file."""

    scene = Scene(report, plans(tokens_per_day=100000, tz=noon_zone())).start()
    few = "fast tokens=10,10"
    report.equal("a request", scene.chat("bob", 20, few).status, 200)
    late = Stream(scene.gateway, "token-of-bob", "bob", few, slow=True,
                  max_tokens=90000)
    wait_for("one that is read, and the scrape", lambda: scene.gateway.metric(
        "clawdbot_nginx_connections", state="writing") == 2)
    scene.edit("clawd:4m", "clawd:8m")
    scene.reload()
    report.equal("one of the new zone",
                 scene.chat("alice", 60000, few).status, 200)
    late.finish()
    report.equal("what the old one can't vouch for is refused", late.status(),
                 503)
    late.close()
    report.check("the new one's counts are kept", scene.kept("alice") >= 60000)
    scene.close()


def upgrade(report):
    """After USR2 the file is the new NGINX's, whatever the old one knows."""

    scene = Scene(report, plans(tokens_per_day=100000, tz=noon_zone()))
    scene.edit("daemon off", "daemon on")     # else USR2 does nothing
    gateway, masters = scene.gateway, []

    def master():
        file = gateway.dir / "nginx.pid"
        pid = int(file.read_text().strip() or 0) if file.exists() else 0
        return pid if pid and pid not in masters else 0

    def workers():
        return [pid for pid, title in gateway.children(masters[-1])
                if "worker" in title]

    try:
        scene.start(wait=False)
        masters.append(wait_for("a master", master))
        old = wait_for("its worker", workers)[0]
        few = "fast tokens=10,10"
        report.equal("a request", scene.chat("alice", 20, few).status, 200)

        os.kill(masters[0], signal.SIGUSR2)
        masters.append(wait_for("another master", master))
        wait_for("its worker", workers)
        os.kill(old, signal.SIGSTOP)
        report.equal("one of the new", scene.chat("alice", 60000, few).status,
                     200)
        os.kill(old, signal.SIGCONT)
        os.kill(masters[0], signal.SIGQUIT)
        wait_for("the old one's end", lambda: not alive(masters[0]))
        report.check("its counts are kept", scene.kept("alice") >= 60000)
    finally:
        for pid in masters:
            end(pid, gateway.children(pid))
    scene.close()


def end(master, children):
    """The master first, else it replaces those that die."""

    for pid in [master] + [child for child, _ in children]:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
        wait_for(f"the end of {pid}", lambda: not alive(pid))


def alive(pid):
    """Not even as a zombie, whose parent may be no good one."""

    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def reloaded(report):
    """The manager of the new configuration writes for the old workers."""

    scene = Scene(report, plans(tokens_per_day=100000, tz=noon_zone())).start()
    report.equal("a request", scene.chat("alice").status, 200)
    first = scene.gateway.manager()
    scene.reload()
    wait_for("one new manager", lambda: scene.gateway.manager() != first)
    report.equal("and more", scene.chat("alice", 60000).status, 200)
    report.check("which are in the file", scene.kept("alice") >= 20)
    scene.close()


PARTS = {part.__name__: part for part in (asked, lowered, west, back, damaged,
                                          added, fails, manager, slow, room,
                                          hangs, past, resized, upgrade,
                                          reloaded)}


def main():
    report = Report("state")

    for name in sys.argv[1:] or PARTS:
        report.part(name, PARTS[name])

    return report.close()


if __name__ == "__main__":
    sys.exit(main())
