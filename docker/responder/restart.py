"""Restarts a container:  restart.py CONTAINER SECONDS

It asks Docker by its socket, as the image this runs in has no client of Docker.
The container has 10 seconds to end by itself.  It may come back with another
address, so the gateway of the same project is told to look it up again.
"""

import http.client
import json
import socket
import sys
import urllib.parse

SOCKET = "/var/run/docker.sock"
GRACE = 10
LABEL = "com.docker.compose"


class Refused(Exception):
    """With what Docker says."""


class Docker(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


def quoted(text):
    return urllib.parse.quote(text, safe="")


def ask(seconds, method, path):
    """The document of the answer, or None where it has none."""
    docker = Docker("docker", timeout=seconds)
    try:
        docker.request(method, path)
        reply = docker.getresponse()
        text = reply.read()
    finally:
        docker.close()
    if reply.status >= 300:
        raise Refused(f"Docker says {reply.status}:"
                      f" {text[:1000].decode(errors='replace').strip()}")
    return json.loads(text) if text else None


def gateways(seconds, name):
    """The ids of those of the project of that container."""
    labels = ask(seconds, "GET", f"/containers/{quoted(name)}/json")[
        "Config"]["Labels"]
    wanted = {"label": [f"{LABEL}.project={labels.get(f'{LABEL}.project')}",
                        f"{LABEL}.service=clawdbot"]}
    return [found["Id"] for found in ask(
        seconds, "GET",
        f"/containers/json?filters={quoted(json.dumps(wanted))}")]


def tell_gateways(seconds, name):
    """Has them look up addresses again."""
    for gateway in gateways(seconds, name):
        ask(seconds, "POST", f"/containers/{gateway}/kill?signal=HUP")


def main():
    name, seconds = sys.argv[1], float(sys.argv[2])
    path = f"/containers/{quoted(name)}/restart?t={GRACE}"
    failure = f"{name} was not restarted"
    try:
        ask(seconds, "POST", path)
        failure = f"{name} was restarted, but the gateway was not told"
        tell_gateways(seconds, name)
    except Refused as refused:
        sys.exit(f"{failure}: {refused}")
    except (OSError, http.client.HTTPException, ValueError, LookupError,
            TypeError, AttributeError, RecursionError) as error:
        sys.exit(f"{failure}: no answer of Docker on {SOCKET}: {error!r}")


main()
