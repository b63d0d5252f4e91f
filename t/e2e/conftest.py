"""Fixtures: real upstreams for the session, a fresh gateway for each test."""

import pytest

pytest.register_assert_rewrite("harness")

from harness import Gateway, Llama, Ollama, Redis  # noqa: E402


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    server = Llama(tmp_path_factory.mktemp("llama"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def ollama(tmp_path_factory):
    server = Ollama(tmp_path_factory.mktemp("ollama"))
    yield server
    server.stop()


@pytest.fixture(params=["llama", "ollama"])
def upstream(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def start_gateway(tmp_path_factory):
    """start_gateway(upstream or "host:port", directives="", http="")."""
    gateways = []

    def start(upstream, directives="", http=""):
        address = getattr(upstream, "address", upstream)
        gateways.append(Gateway(tmp_path_factory.mktemp("nginx"), address,
                                directives, http))
        return gateways[-1]

    yield start

    for gateway in gateways:
        gateway.check()


@pytest.fixture
def redis(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def gateway(start_gateway, upstream):
    return start_gateway(upstream)


@pytest.fixture
def ollama_gateway(start_gateway, ollama):
    return start_gateway(ollama)


def pytest_unconfigure(config):
    """The last line, for those who only count."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    passed, failed, errors = (len(reporter.stats.get(name, ()))
                              for name in ("passed", "failed", "error"))
    print(f"{passed} passed, {failed + errors} failed")
