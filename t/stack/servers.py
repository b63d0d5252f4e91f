"""Prometheus as a server of a test, and what it says."""

import httpx

from harness import Server, free_port, wait_until


class Prometheus(Server):
    """A real Prometheus with the configuration file of the caller."""

    def __init__(self, folder, conf, *options):
        self.url = f"http://127.0.0.1:{free_port()}"
        super().__init__(folder, [
            "prometheus", f"--config.file={conf}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            *options])
        self.wait_for(f"{self.url}/-/ready")

    def get(self, path, **params):
        reply = httpx.get(f"{self.url}/api/v1/{path}", params=params).json()
        assert reply["status"] == "success", reply
        return reply["data"]

    def query(self, text):
        """The samples of an instant query: [(labels, value)]."""
        return [(item["metric"], float(item["value"][1]))
                for item in self.get("query", query=text)["result"]]

    def value(self, text):
        """The value of a query with one sample at most; None of none."""
        samples = self.query(text)
        assert len(samples) < 2, (text, samples)
        return samples[0][1] if samples else None

    def wait_value(self, text, value):
        wait_until(f"{text} == {value}", lambda: self.value(text) == value)

    def firing(self):
        """The names of the alerts that fire."""
        return {alert["labels"]["alertname"]
                for alert in self.get("alerts")["alerts"]
                if alert["state"] == "firing"}
