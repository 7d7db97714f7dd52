"""Set-up of all tests: shapes and types of `dinotrain` are checked at run time; golden numbers."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from jaxtyping import install_import_hook
from reference import Golden, load

install_import_hook("dinotrain", "typechecker.check")

if threads := os.environ.get("DINOTRAIN_TEST_THREADS"):
    torch.set_num_threads(int(threads))


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Reads the golden file of a name."""
    return load
