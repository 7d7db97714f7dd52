"""How commands begin."""

from __future__ import annotations

import subprocess
import sys

import pytest
from real_runs import environment


@pytest.mark.parametrize("words", [["--help"], ["--config", "task=knn", "weights=a", "data=embedded"]])
def test_whoever_reads_may_have_seen_enough(words: list[str]) -> None:
    module = [sys.executable, "-m", "dinotrain.evaluate", *words]
    with subprocess.Popen(module, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        assert command.stderr.read() == b""
        assert command.wait() == 0
