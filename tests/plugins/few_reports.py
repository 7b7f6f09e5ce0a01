"""Send one report for each test to the controller, or more if a test did not pass. Loaded by script/test.

A worker of xdist sends five messages for each test, and most of them say that its set-up or its tear-down passed. For
thousands of tests of a few milliseconds, these messages took a tenth of the CPU time of a quick run (`--durations`
then knows the calls only, so a run with that option gets all messages).
"""

from __future__ import annotations

import pytest
from _pytest.runner import runtestprotocol


class FewReports:
    """Runs each test as pytest does, but reports less."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        for report in runtestprotocol(item, log=False, nextitem=nextitem):
            if report.when == "call" or not report.passed:
                item.ihook.pytest_runtest_logreport(report=report)
        return True


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") and config.option.durations is None:
        config.pluginmanager.register(FewReports())
