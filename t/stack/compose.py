"""The compose files as Compose reads them, and their services on this machine.

There is no container engine here.  A service runs in a root of its own that is
put together from this machine's Debian as the file says, with the user, the
mounts, the secrets and the environment that it has there.
"""

import pathlib
import pwd
import re
import shlex
import shutil
import subprocess

import yaml

from harness import ROOT, Server, wait_until

DOCKER = ROOT / "docker"
FILES = ["docker-compose.yml", "compose.gpu.yml"]

VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<plain>\w+)|"
                      r"\{(?P<name>\w+)(?:(?P<how>:?[-+?])(?P<word>[^{}$]*))?"
                      r"\})")

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Refused(Exception):
    """Compose would end with this sentence."""


def interpolate(value, variables):
    """A document as Compose has it, with its variables filled in."""
    def fill(found):
        if found["escaped"]:
            return "$"
        name, how = found["name"] or found["plain"], found["how"] or ""
        there = name in variables and (variables[name] or ":" not in how)
        if how.endswith("+"):
            return found["word"] if there else ""
        if not there and how.endswith("?"):
            raise Refused(found["word"])
        if not there:
            assert how.endswith("-"), f"{name} has no default"
            return found["word"]
        return variables[name]

    if isinstance(value, dict):
        return {key: interpolate(inner, variables)
                for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolate(inner, variables) for inner in value]
    if isinstance(value, str):
        assert "$" not in VARIABLE.sub("", value), value
        return VARIABLE.sub(fill, value)
    return value


def settings(path):
    """What an .env file sets."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines()
                if line and not line.startswith("#"))


def read(name, variables):
    return interpolate(yaml.safe_load((DOCKER / name).read_text()), variables)


def mounts(service):
    """(source, target, whether read-only) of a service's volumes."""
    for volume in service.get("volumes", ()):
        source, target, *mode = volume.split(":")
        yield source, target, mode == ["ro"]


def environment(service, variables):
    """A service's variables; a name alone takes its value from outside."""
    given = service.get("environment", {})
    if isinstance(given, list):
        given = {name: variables[name] for name in given if name in variables}
    return given


def fresh(folder):
    """docker/ as a fresh clone has it, in the folder."""
    return shutil.copytree(DOCKER, folder / "docker",
                           ignore=shutil.ignore_patterns("secrets", ".env"))


def setup(docker):
    """Runs setup.sh there.  Returns what it says."""
    return subprocess.run(["sh", docker / "setup.sh"], cwd="/", check=True,
                          capture_output=True, text=True).stdout


class Image:
    """What an image has that the file does not say: its programs, by the names
    they have there, its user, entry point and folder."""

    def __init__(self, programs, user="root", entrypoint=(), folder="/"):
        self.programs = programs
        self.user = user
        self.entrypoint = list(entrypoint)
        self.folder = folder


IMAGES = {
    "redis": Image({"redis-cli": "redis-cli", "redis-server": "redis-server"}),
    "prometheus": Image({"prometheus": "prometheus"}, "nobody",
                        ["prometheus"], "/prometheus"),
    "alertmanager": Image({"alertmanager": "prometheus-alertmanager"},
                          "nobody", folder="/alertmanager"),
    "responder": Image({"python3": "python3"}),
}


class Service(Server):
    """A service of the compose file.

    places: where its volumes and what it has of the machine are, by name
    hosts: the lines of /etc/hosts by which it knows others
    variables: what docker/.env sets
    """

    def __init__(self, folder, name, service, secrets, places, hosts="",
                 variables=()):
        self.name = name
        self.service = service
        self.image = IMAGES[name]
        self.variables = environment(service, dict(variables))
        self.user = service.get("user", self.image.user)
        self.workdir = service.get("working_dir", self.image.folder)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}\n")
        root = folder / "root"
        root.mkdir(exist_ok=True)
        super().__init__(folder, [
            "unshare", "--mount", "sh", "-euc",
            self.script(root, secrets, places, folder / "hosts")])
        try:
            wait_until(f"{name} to be healthy", self.healthy)
        except BaseException:
            self.stop()
            raise

    def script(self, root, secrets, places, hosts):
        lines = [f"mount -t tmpfs none {root}", f"cd {root}",
                 "mkdir usr dev proc", "cp -a /bin /sbin /lib* /etc .",
                 *(f"mount --rbind /{name} {name}"
                   for name in ("usr", "dev", "proc")),
                 # where images have what is theirs
                 "mount -t tmpfs none usr/local", "mkdir usr/local/bin"]
        for name, program in self.image.programs.items():
            lines.append(f"ln -s /usr/bin/{program} usr/local/bin/{name}")
        lines += bind(hosts, "/etc/hosts")
        for place in self.service.get("tmpfs", ()):
            # once it was made for the mount, it is there, and root's
            path, *options = place.split(":")
            lines += [f"mkdir -p -m 755 .{path}", "mount -t tmpfs -o "
                      + ",".join(["mode=755,uid=0,gid=0", *options])
                      + f" none .{path}"]
        for source, target, _ in mounts(self.service):
            lines += bind(pathlib.Path(places.get(source) or DOCKER / source),
                          target)
        for name in self.service.get("secrets", ()):
            lines += bind(secrets / name, f"/run/secrets/{name}")
        return "\n".join([
            *lines, f"mkdir -p .{self.workdir}",
            *([f"mount -o remount,ro {root}"]
              if self.service.get("read_only") else []),
            "exec chroot . " + shlex.join(self.as_user(
                *self.service.get("entrypoint", self.image.entrypoint),
                *self.service.get("command", ())))])

    def ids(self):
        """The numbers of its user and group."""
        if ":" in self.user:
            return [int(number) for number in self.user.split(":")]
        user = pwd.getpwnam(self.user)
        return user.pw_uid, user.pw_gid

    def as_user(self, *words):
        """In its working directory, without root's rights."""
        user, group = self.ids()
        return ["env", "-i", f"--chdir={self.workdir}", f"PATH={PATH}",
                *(f"{name}={value}" for name, value in self.variables.items()),
                "setpriv", f"--reuid={user}", f"--regid={group}",
                "--clear-groups", "--no-new-privs", "--inh-caps=-all",
                "--bounding-set=-all", *map(str, words)]

    def command(self, *words):
        """As docker compose exec runs it."""
        return ["nsenter", f"--target={self.process.pid}", "--mount", "--root",
                *self.as_user(*words)]

    def run(self, *words):
        return subprocess.run(self.command(*words), capture_output=True,
                              text=True, timeout=60)

    def healthy(self):
        assert self.process.poll() is None, self.output.read_text()
        how, *command = self.service["healthcheck"]["test"]
        assert how == "CMD"
        return self.run(*command).returncode == 0


def bind(source, target):
    make = "mkdir -p" if source.is_dir() else "install -D /dev/null"
    return [f"{make} .{target}", f"mount --bind {source} .{target}"]
