"""How ``pytest -n`` hands the tests to its workers.

A worker gets whole files, so that what a module prepares is prepared once, and the folders in
``TOGETHER`` as a whole, whose files share something that takes long. The longest begin first, or
one worker would end with them alone. Each worker keeps to one thread where a library lets itself be
told, for there is a worker for each core.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

TOGETHER = ("tests/bundling/", "tests/convert/", "tests/training/")
LONGEST = (
    "tests/convert/",
    "tests/evaluation/",
    "tests/test_engine_quirks.py",
    "tests/test_faults.py",
    "tests/training/",
    "tests/bundling/",
    "tests/quantization/",
)


def unit(nodeid: str) -> str:
    """What a test is handed out with: its file, or one of the folders."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


class Workers:
    """The plugin: order, units and threads."""

    def __init__(self, config: pytest.Config) -> None:
        if hasattr(config, "workerinput"):
            os.environ.setdefault("OMP_NUM_THREADS", "1")

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """The longest first, where there are workers."""
        if hasattr(config, "workerinput"):
            items.sort(
                key=lambda item: next(
                    (n for n, name in enumerate(LONGEST) if item.nodeid.startswith(name)),
                    len(LONGEST),
                )
            )

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> LoadFileScheduling:
        """Hands out whole units."""
        from xdist.scheduler import LoadFileScheduling

        class ByUnit(LoadFileScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return unit(nodeid)

        config.option.loadscopereorder = False  # it would sort by numbers of tests
        return ByUnit(config, log)
