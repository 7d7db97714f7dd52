"""torch.export programs, run without this package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exported import BARE, PLAIN, REGISTERS, SIZES, assert_same, noise, subject_of

from dinotrain.exporting.torch_program import WORDS, load, write
from dinotrain.weights.architecture import Architecture

ALONE = """
import sys, torch
words = {"WORDS": ""}
program = torch.export.load("some.pt2", extra_files=words)
model = program.module()
torch.save([model(images) for images in torch.load("images.pt")], "found.pt")
assert not [name for name in sys.modules if name.startswith("dinotrain")]
print(words["WORDS"])
""".replace("WORDS", WORDS)


def test_torch_alone_runs_it(tmp_path: Path) -> None:
    subject = subject_of(REGISTERS, blocks=2)
    write(subject, tmp_path / "some.pt2")
    images = [noise(REGISTERS, *size) for size in SIZES]
    torch.save(images, tmp_path / "images.pt")
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert '"patch_size": 8' in done.stdout
    for found, batch in zip(torch.load(tmp_path / "found.pt"), images, strict=True):
        expected = subject.outputs(batch)
        assert list(found) == list(expected) == ["logits", "cls", "registers", "patches"]
        assert_same(found, expected)
    assert b"dinotrain/exporting/" not in (tmp_path / "some.pt2").read_bytes()


@pytest.mark.parametrize(
    ("architecture", "dtype", "tolerance"), [(BARE, torch.float16, 1e-2), (PLAIN, torch.bfloat16, 5e-2)]
)
def test_half_precision(architecture: Architecture, dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    subject = subject_of(architecture).in_dtype(dtype)
    write(subject, tmp_path / "some.pt2")
    run = load(tmp_path / "some.pt2")
    for size in SIZES:
        images = noise(architecture, *size)
        found = run(images)
        assert found["cls"].dtype == torch.float32
        assert_same(found, subject.outputs(images), tolerance)
    with pytest.raises(AssertionError):  # a side that is no multiple of the patch
        run(torch.zeros(1, 3, architecture.patch_size * 3 + 1, architecture.patch_size * 3))
