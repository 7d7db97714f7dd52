"""A torch.export program: one file that torch runs without this package, for any number and size of images."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from dinotrain.exporting.subject import Outputs, Subject
from dinotrain.exporting.traced import TracedNetwork

LEAST, MOST = 2, 4096
"""Patches along a side. One alone would be traced as a case of its own."""

WORDS = "dinotrain.json"


def write(subject: Subject, path: Path) -> tuple[str, ...]:
    """Write the program; returns how it is used.

    Raises:
        UserError: if the weights can't be used.
    """
    with quietly():
        torch.export.save(traced_program(subject), path, extra_files={WORDS: json.dumps(subject.words())})
    first, *others = TracedNetwork(subject.network, subject.head).names
    return (
        "import torch",
        f'model = torch.export.load("{path.name}").module()',
        f'{first} = model(images)["{first}"]' + (f"  # also {', '.join(others)}" if others else ""),
    )


def load(path: Path) -> Callable[[Tensor], Outputs]:
    """The program in a file, as torch runs it."""
    with quietly():
        module = torch.export.load(path).module()

    @torch.no_grad()
    def run(images: Tensor) -> Outputs:
        return module(images)

    return run


def traced_program(subject: Subject) -> ExportedProgram:
    """The program, computing in the type of the stored weights; images and results are float32."""
    network = copy.deepcopy(subject.network).to(subject.dtype) if subject.half else subject.network
    patch = network.patch_size
    example = torch.zeros(2, network.channels, (LEAST + 1) * patch, (LEAST + 2) * patch)
    batch, rows, columns = Dim("batch", min=1), *(Dim(name, min=LEAST, max=MOST) for name in ("rows", "columns"))
    sizes = {0: batch, 2: patch * rows, 3: patch * columns}
    module = TracedNetwork(network, subject.head, subject.blocks).eval()
    with quietly(), torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes={"images": sizes})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # places on this machine, which are nobody else's business
    return program


@contextmanager
def quietly() -> Iterator[None]:
    """Without what torch and the libraries it calls have to tell their own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
