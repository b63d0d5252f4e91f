"""What the tests of the stack share.  Servers come from t/e2e/harness.py."""

import pytest

pytest.register_assert_rewrite("harness")

from traffic import watched  # noqa: E402, F401  the gateways that all watch


def pytest_unconfigure(config):
    """The last line, for those who only count."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    passed, failed, errors = (len(reporter.stats.get(name, ()))
                              for name in ("passed", "failed", "error"))
    print(f"{passed} passed, {failed + errors} failed")
