"""What a pre-trained network is good for: as the teacher of a smaller one, and for its patch tokens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from real_runs import command_of, results, run_command

SHARED = ("evaluation.max_train=1500", "evaluation.max_test=500", "evaluation.every=null", "evaluation.pictures=0")
SMALL = ("model.embed_dim=96", "model.depth=3")
STEPS = 180
TEACHER_STEPS = 400
SCENES = (
    *("data=scenes", "data.source.kinds=1", "data.source.length=1500", "max_test=200", "cache=false", "device=cpu"),
    *("segmentation.steps=1500", "segmentation.learning_rate=0.01", "segmentation.crop_scale=[1,1]"),
    *("segmentation.color=0", "segmentation.pictures=0"),
)
MASKS_MARGIN = 3.0
"""Percentage points of mIoU; 6 were measured."""
MARGIN = 5.0
"""Percentage points; 11 and more were measured."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained network, with its accuracy."""
    run_dir = tmp_path_factory.mktemp("teacher") / "run"
    words = ("+experiment=quickstart", f"optim.steps={TEACHER_STEPS}", *SHARED, f"output_dir={run_dir}")
    run_command(command_of(*words), run_dir.parent)
    return run_dir


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_distilled_student_is_better_than_the_same_network_alone(teacher: Path, tmp_path: Path) -> None:
    def accuracy(name: str, *words: str) -> float:
        run_command(command_of(*words, *SHARED, f"output_dir={tmp_path / name}"), tmp_path)
        return results(tmp_path / name)["knn_top1"]

    taught = (f"teacher.weights={teacher}", f"optim.steps={STEPS}")
    alone = accuracy("alone", "+experiment=quickstart", *SMALL, f"optim.steps={STEPS}")
    by_features = accuracy("features", "+experiment=distill_features_quickstart", *taught)
    by_prototypes = accuracy("prototypes", "+experiment=distill_quickstart", *taught)
    print(f"{results(teacher)['knn_top1']=} {alone=} {by_features=} {by_prototypes=}")
    assert by_features > alone + MARGIN
    assert by_prototypes > alone + MARGIN


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_trained_network_tells_where_objects_are(teacher: Path, tmp_path: Path) -> None:
    """Of scenes that it never saw, its patch tokens give better masks than those of the network it began as."""

    def miou(weights: Path, name: str) -> float:
        words = (f"weights={weights}", *SCENES, f"output_dir={tmp_path / name}_masks")
        run_command([sys.executable, "-m", "dinotrain.evaluate", "task=segmentation", *words], tmp_path)
        return results(tmp_path / f"{name}_masks")["tasks"]["segmentation"]["numbers"]["miou"]

    words = ("+experiment=quickstart", "optim.steps=1", "optim.warmup=0", "optim.base_lr=1.0e-9", "optim.min_lr=0.0")
    run_command(command_of(*words, "evaluation.tasks=[]", *SHARED, f"output_dir={tmp_path / 'untrained'}"), tmp_path)
    trained, untrained = miou(teacher, "trained"), miou(tmp_path / "untrained", "untrained")
    print(f"{trained=} {untrained=}")
    assert trained > untrained + MASKS_MARGIN
