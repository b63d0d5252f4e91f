"""A network of a test's own, in which the real ports are free."""

import contextlib
import ctypes
import os
import subprocess

CLONE_NEWNET = 0x40000000


def call(function, *arguments):
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def network(ipv6=True):
    """For this thread and all that it starts; others stay where they are."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    call(libc.unshare, CLONE_NEWNET)
    try:
        if not ipv6:
            with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w") as file:
                file.write("1")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        call(libc.setns, before, CLONE_NEWNET)
        os.close(before)
