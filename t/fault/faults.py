"""Faults at random, in a thread beside the load: who draws the same seed gets
the same faults in the same order."""

import random
import threading
import time

from harness import RedisError


class Faults:
    """kinds: names of the methods below, drawn with equal chance; gap: the
    shortest and longest time between two."""

    def __init__(self, kinds, gap, seed, gateways, redis=None, records=None):
        self.kinds = kinds
        self.gap = gap
        self.random = random.Random(f"faults {seed}")
        self.gateways = gateways
        self.redis = redis
        self.records = records
        self.over = threading.Event()
        self.done = {}
        self.error = None
        self.thread = threading.Thread(target=self.play)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        if self.error:
            raise self.error

    def play(self):
        try:
            while not self.over.wait(self.random.uniform(*self.gap)):
                kind = self.random.choice(self.kinds)
                self.done[kind] = self.done.get(kind, 0) + 1
                getattr(self, kind)()
        except Exception as e:  # told by the one who ends the faults
            self.error = e

    def told(self):
        return ", ".join(f"{n} x {kind}" for kind, n in self.done.items())

    # of gateways

    def worker(self):
        gateway = self.random.choice(self.gateways)
        workers = gateway.workers(old=True)
        if workers:
            gateway.kill_worker(self.random.choice(workers))

    def reload(self):
        self.random.choice(self.gateways).reload()

    # of Redis; without durability an admin writes the records again

    def restart(self):
        self.redis.kill()
        time.sleep(self.random.uniform(0, 0.4))
        self.redis.start()
        if self.redis.aof == "none":
            self.records()

    def pause(self):
        self.redis.pause()
        time.sleep(self.random.choice([0.05, 0.2, 0.8, 2, 3]))
        self.redis.resume()

    def full(self):
        self.redis("CONFIG", "SET", "maxmemory", "1mb")
        time.sleep(self.random.uniform(0.1, 0.6))
        self.redis("CONFIG", "SET", "maxmemory", "0")

    def readonly(self):
        self.redis("REPLICAOF", "127.0.0.1", "1")
        time.sleep(self.random.uniform(0.1, 0.6))
        self.redis("REPLICAOF", "NO", "ONE")

    def scripts(self):
        self.redis("SCRIPT", "FLUSH")

    def flush(self):
        self.redis("FLUSHALL")
        self.records()

    def clients(self):
        """Resets all connections to Redis."""
        try:
            self.redis("CLIENT", "KILL", "TYPE", "normal")
        except (ConnectionError, RedisError):
            pass
