"""What only a GPU can show; run with `pytest -m gpu`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real_runs import DISTILLED, FEATURES, TEACHER, command_of, losses, results, run, run_command

from dinotrain.models.attention import available_backends, select_attention
from dinotrain.models.init import initialize
from dinotrain.models.vit import VisionTransformer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_a_run_learns_finite_losses(tmp_path: Path, precision: str) -> None:
    run(tmp_path / "run", f"runtime.precision={precision}")
    found = losses(tmp_path / "run")
    assert len(found) == 12
    assert all(0 < loss < 100 for loss in found.values())


def test_half_precision_is_close_to_single(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16", "fp16"):
        run(tmp_path / precision, f"runtime.precision={precision}", "optim.steps=2")
    exact = losses(tmp_path / "fp32")[1]
    for precision in ("bf16", "fp16"):
        assert losses(tmp_path / precision)[1] == pytest.approx(exact, rel=0.05)


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    run(tmp_path / "run", "optim.steps=4")
    run(tmp_path / "run", "optim.steps=6", "resume.allow_changes=true")
    assert max(losses(tmp_path / "run")) == 6


def test_compiled_blocks_give_the_same_losses(tmp_path: Path) -> None:
    run(tmp_path / "eager", "optim.steps=3")
    run(tmp_path / "compiled", "optim.steps=3", "runtime.compile=true")
    eager, compiled = losses(tmp_path / "eager"), losses(tmp_path / "compiled")
    for step, loss in eager.items():
        assert compiled[step] == pytest.approx(loss, rel=0.02)


def test_xformers_and_sdpa_agree() -> None:
    if "xformers" not in available_backends(torch.device("cuda"), torch.float16, 64):
        pytest.skip("xformers has no kernel here")
    model = VisionTransformer(embed_dim=128, depth=2, num_heads=2, layer_scale=1.0).cuda().half()
    initialize(model, 0, model.initial)
    crops = [torch.randn(2, 3, 224, 224, device="cuda").half(), torch.randn(5, 3, 98, 98, device="cuda").half()]
    tokens, gradients = {}, {}
    for backend in ("sdpa", "xformers"):
        select_attention(model, backend)
        model.zero_grad()
        tokens[backend] = model(crops)
        torch.stack([group.patches.float().square().mean() for group in tokens[backend]]).sum().backward()
        gradients[backend] = [p.grad.float() for p in model.parameters() if p.grad is not None]
    for a, b in zip(tokens["sdpa"], tokens["xformers"]):
        torch.testing.assert_close(a.patches, b.patches, atol=1e-2, rtol=1e-2)
    for a, b in zip(gradients["sdpa"], gradients["xformers"]):
        torch.testing.assert_close(a, b, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_students_of_a_frozen_teacher_learn_finite_losses(tmp_path: Path, precision: str) -> None:
    run_command(command_of(*TEACHER, f"output_dir={tmp_path / 'teacher'}"), tmp_path)
    half = f"runtime.precision={precision}"
    for name, words in (("prototypes", DISTILLED), ("features", FEATURES)):
        folder = tmp_path / name
        given = (f"teacher.weights={tmp_path / 'teacher'}", f"output_dir={folder}", half)
        run_command(command_of(*words, *given), tmp_path)
        found = losses(folder)
        assert len(found) == 6
        assert all(0 < loss < 100 for loss in found.values())


def test_evaluations_on_a_gpu_find_what_a_cpu_finds(tmp_path: Path) -> None:
    run(tmp_path / "run")
    found = {}
    for device in ("cuda", "cpu"):
        words = (f"weights={tmp_path / 'run'}", "data=embedded", "data.source.length=400", f"device={device}")
        small = ("linear.augment=false", "linear.steps=50", "linear.batch=64", "logistic.points=5", "cache=false")
        tasks = "task=[knn,logistic,linear,retrieval,clusters]"
        run_evaluation(tmp_path, tasks, *words, *small, f"output_dir={tmp_path / device}")
        tasks = results(tmp_path / device)["tasks"]
        found[device] = {name: next(iter(record["numbers"].values())) for name, record in tasks.items()}
    for name, value in found["cpu"].items():
        # Half precision may turn the answer for a few of the 80 test images.
        assert found["cuda"][name] == pytest.approx(value, abs=10), name


def test_dense_heads_learn_on_a_gpu(tmp_path: Path) -> None:
    run(tmp_path / "run")
    words = (f"weights={tmp_path / 'run'}", "data=scenes", "data.source.length=200", "device=cuda", "cache=false")
    steps = ("segmentation.steps=50", "depth.steps=50", "depth.blocks=[1,2]")
    run_evaluation(tmp_path, "task=[segmentation,depth]", *words, *steps, f"output_dir={tmp_path / 'out'}")
    tasks = results(tmp_path / "out")["tasks"]
    assert tasks["segmentation"]["numbers"]["miou"] > 0
    assert 0 < tasks["depth"]["numbers"]["rmse"] < 10


def test_classifiers_and_features_on_a_gpu_are_those_of_a_cpu(tmp_path: Path) -> None:
    run(tmp_path / "run")
    for name, device, head in (("linear", "cuda", "linear4"), ("full", "cuda", "full")):
        words = (f"weights={tmp_path / 'run'}", "data=embedded", "data.source.length=200", f"head={head}", "steps=10")
        run_tool(tmp_path, "finetune", *words, f"device={device}", f"output_dir={tmp_path / name}")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(5):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (60, 50, 3), np.uint8)).save(
            pictures / f"{number}.png"
        )
    found = {}
    for device in ("cuda", "cpu"):
        words = (f"model={tmp_path / 'full'}", str(pictures), "form=probs", "format=jsonl", f"device={device}")
        lines = run_tool(tmp_path, "predict", *words).splitlines()
        out = tmp_path / f"{device}.npy"
        words = (f"weights={tmp_path / 'linear'}", f"images={pictures}", f"out={out}", f"device={device}")
        run_tool(tmp_path, "embed", *words)
        found[device] = [json.loads(line)["probs"] for line in lines], np.load(out)
    np.testing.assert_allclose(found["cuda"][0], found["cpu"][0], atol=0.02)
    np.testing.assert_allclose(found["cuda"][1], found["cpu"][1], atol=0.05)


def run_tool(folder: Path, command: str, *words: str) -> str:
    done = run_command([sys.executable, "-m", f"dinotrain.{command}", *words], folder)
    return done.stdout


def run_evaluation(folder: Path, *words: str) -> None:
    run_command([sys.executable, "-m", "dinotrain.evaluate", *words], folder)
