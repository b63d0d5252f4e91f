"""Restarts a container:  restart.py CONTAINER SECONDS

It asks Docker by its socket, as the image this runs in has no client of Docker.
The container has 10 seconds to end by itself.
"""

import http.client
import socket
import sys
import urllib.parse

SOCKET = "/var/run/docker.sock"
GRACE = 10


class Docker(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


def main():
    name, seconds = sys.argv[1:]
    docker = Docker("docker", timeout=float(seconds))
    path = f"/containers/{urllib.parse.quote(name, safe='')}/restart?t={GRACE}"
    try:
        docker.request("POST", path)
        reply = docker.getresponse()
        text = reply.read(1000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"no answer of Docker on {SOCKET}: {error!r}")
    if reply.status != 204:
        sys.exit(f"Docker says {reply.status}: {text}")


main()
