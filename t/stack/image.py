"""The image that tools/image.sh builds, and containers of it."""

import json
import os
import pathlib
import signal
import subprocess

import httpx

from compose import FILES, read
from harness import ROOT, Server, children, wait_until
from neighbours import CHAT

UID = 10001
API = "http://127.0.0.1:8080"
IMAGE = "localhost/clawdbot:0.1.0"

# as compose runs it
GATEWAY = read(FILES[0], {"CLAWD_SECRETS": "."})["services"]["clawdbot"]

# What an engine does: the mounts, then the image's user and command.
ENGINE = """
set -e
root=$1
shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do
    # the mode of the folder, and root as its owner, unless it is said
    mode=$(stat -c %a "$root$1")
    mount -t tmpfs -o "mode=$mode,uid=0,gid=0${2:+,$2}" tmpfs "$root$1"
    shift 2
done
shift
while [ "$1" != -- ]; do
    mount --bind "$1" "$root$2"
    shift 2
done
shift
mount -o remount,bind,ro "$root"
exec chroot --userspec=10001:10001 --groups= "$root" "$@"
"""


class Image:
    """The image and its base, unpacked where buildah keeps them."""

    def __init__(self):
        conf = subprocess.run([ROOT / "tools/image.sh"], check=True,
                              stdout=subprocess.PIPE, text=True).stdout.strip()
        self.env = {**os.environ, "CONTAINERS_STORAGE_CONF": conf}
        self.containers = []
        self.root = self.unpack(IMAGE)
        self.base = self.unpack("localhost/debian:trixie-slim")
        self.config = json.loads(self.buildah(
            "inspect", "--type", "image", IMAGE))["Docker"]["config"]

    def buildah(self, *words):
        return subprocess.run(["buildah", *words], env=self.env, check=True,
                              stdout=subprocess.PIPE, text=True).stdout.strip()

    def unpack(self, name):
        container = self.buildah("from", "--pull-never", name)
        self.containers.append(container)
        return pathlib.Path(self.buildah("mount", container))

    def remove(self):
        for container in self.containers:
            self.buildah("rm", container)


class Container(Server):
    """The image's command, in namespaces of its own but for the network.

    conf: a configuration that is mounted
    hosts: the names that it knows
    mounts: {path in the container: file}
    """

    def __init__(self, image, folder, conf=None,
                 hosts="127.0.0.1 localhost ollama redis\n", mounts=None,
                 **env):
        self.image = image
        self.token = env.get("CLAWDBOT_TOKEN")
        self.out = folder / "out"
        self.output = folder / "err"
        self.state = folder / "state"
        self.state.mkdir(exist_ok=True)
        os.chown(self.state, UID, UID)
        (folder / "hosts").write_text(hosts)
        environment = dict(
            pair.split("=", 1) for pair in image.config["Env"])
        places = self.places({"/etc/hosts": folder / "hosts",
                              "/etc/nginx/nginx.conf": conf,
                              **(mounts or {})})
        tmpfs = [word for place in GATEWAY["tmpfs"]
                 for word in (*place.split(":"), "")[:2]]
        with open(self.out, "w") as out, open(self.output, "w") as err:
            for file in (out, err):
                os.fchown(file.fileno(), UID, UID)
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child",
                 "sh", "-c", ENGINE, "engine", image.root,
                 *tmpfs, "--", self.state, "/var/lib/clawd", *places, "--",
                 *image.config["Entrypoint"], *image.config["Cmd"]],
                env={**environment, **env},
                cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def places(self, mounts):
        """Source and target of each mount.  An engine makes the places for
        them, when they are not there."""
        words = []
        for target, source in mounts.items():
            place = self.image.root / target.lstrip("/")
            if source:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
                words += [source, target]
            else:
                place.unlink(missing_ok=True)
        return words

    def wait(self):
        def up():
            assert self.process.poll() is None, self.output.read_text()
            return self.healthy()
        wait_until("the container to be healthy", up)

    @property
    def pid(self):
        """The first process of the container, as others see it."""
        return children(self.process.pid)[0]

    def stop(self, how=None):
        if self.process.poll() is None:
            os.kill(self.pid, how or signal.Signals[
                self.image.config["StopSignal"]])
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def exec(self, *words):
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--root",
             "--wd", "--setuid", str(UID), "--setgid", str(UID), *words],
            capture_output=True, text=True)

    def healthy(self):
        how, *words = self.image.config["Healthcheck"]["Test"]
        assert how == "CMD"
        return bool(children(self.process.pid)) \
            and self.exec(*words).returncode == 0

    def chat(self, token=None, **fields):
        return httpx.post(f"{API}/v1/chat/completions", json={**CHAT, **fields},
                          headers={"Authorization": f"Bearer {token or self.token}"})

    def log(self):
        return [json.loads(line) for line in self.out.read_text().splitlines()]
