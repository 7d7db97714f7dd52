"""Set-up of all tests: shapes and types of `dinotrain` are checked at run time; golden numbers."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable

import pytest
import torch
from jaxtyping import install_import_hook
from reference import Golden, load

install_import_hook("dinotrain", "typechecker.check")

# Listings of folders and the like that tests make must not stay in the user's cache.
os.environ["DINOTRAIN_CACHE"] = tempfile.mkdtemp(prefix="dinotrain-tests-")
atexit.register(shutil.rmtree, os.environ["DINOTRAIN_CACHE"], ignore_errors=True)

# A shell that starts the tests in the background has them ignore Ctrl-C, and so all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if threads := os.environ.get("DINOTRAIN_TEST_THREADS"):
    torch.set_num_threads(int(threads))


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Reads the golden file of a name."""
    return load
