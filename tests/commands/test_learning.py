"""What a pre-trained network is good for: as the teacher of a smaller one, and for its patch tokens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from emoji_scenes import emoji_set
from real_runs import command_of, results, run_command

SHARED = ("evaluation.max_train=1500", "evaluation.max_test=500", "evaluation.every=null", "evaluation.pictures=0")
SMALL = ("model.embed_dim=96", "model.depth=3")
STEPS = 180
HEADS = ("max_test=200", "cache=false", "device=cpu")
SEGMENTATION = (
    *("task=segmentation", "segmentation.learning_rate=0.01", "segmentation.crop_scale=[1,1]"),
    *("segmentation.color=0", "segmentation.pictures=0"),
)
SCENES = ("data=scenes", "data.source.kinds=1")
MASKS_MARGIN = 3.0
"""Percentage points of mIoU; 6 were measured."""
EMOJI_MARGIN = 2.0
"""Percentage points of mIoU; 4.6 were measured."""
DEPTH_MARGIN = 0.05
"""Metres of RMSE; 0.13 were measured."""
MARGIN = 5.0
"""Percentage points; 11 and more were measured."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained network, with its accuracy."""
    run_dir = tmp_path_factory.mktemp("teacher") / "run"
    run_command(command_of("+experiment=quickstart", *SHARED, f"output_dir={run_dir}"), run_dir.parent)
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


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network that the teacher began as."""
    run_dir = tmp_path_factory.mktemp("untrained") / "run"
    words = ("+experiment=quickstart", "optim.steps=1", "optim.warmup=0", "optim.base_lr=1.0e-9", "optim.min_lr=0.0")
    run_command(command_of(*words, "evaluation.tasks=[]", *SHARED, f"output_dir={run_dir}"), run_dir.parent)
    return run_dir


def headline(weights: Path, folder: Path, *words: str) -> float:
    """The first number of a task, of a linear layer on these weights."""
    command = [sys.executable, "-m", "dinotrain.evaluate", *words, *HEADS, f"weights={weights}", f"output_dir={folder}"]
    run_command(command, folder.parent)
    (record,) = results(folder)["tasks"].values()
    return next(iter(record["numbers"].values()))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_trained_network_tells_where_objects_are(teacher: Path, untrained: Path, tmp_path: Path) -> None:
    """Of scenes that it never saw, its patch tokens give better masks than those of the network it began as."""
    words = (*SEGMENTATION, *SCENES, "data.source.length=1500", "segmentation.steps=1500")
    learned, random = headline(teacher, tmp_path / "learned", *words), headline(untrained, tmp_path / "random", *words)
    print(f"{learned=} {random=}")
    assert learned > random + MASKS_MARGIN


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_trained_network_tells_emoji_from_photographs(teacher: Path, untrained: Path, tmp_path: Path) -> None:
    """It saw neither: only drawn shapes on drawn grounds."""
    root = emoji_set(tmp_path / "emoji", images=1000, val=200, size=96, one_class=True)
    words = (*SEGMENTATION, "data=masks", f"data.root={root}", "size=96", "segmentation.steps=600")
    learned, random = headline(teacher, tmp_path / "learned", *words), headline(untrained, tmp_path / "random", *words)
    print(f"{learned=} {random=}")
    assert learned > random + EMOJI_MARGIN


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_trained_network_tells_metres_by_what_it_sees(teacher: Path, untrained: Path, tmp_path: Path) -> None:
    """Where pictures are as those of larger things farther off, so that only knowing the things tells how far."""
    words = (*SCENES, "data.source.true_sizes=10", "data.source.length=4000")
    words = ("task=depth", *words, "depth.steps=1000", "depth.learning_rate=0.02", "depth.color=0", "depth.pictures=0")
    learned, random = headline(teacher, tmp_path / "learned", *words), headline(untrained, tmp_path / "random", *words)
    print(f"{learned=} {random=}")
    assert learned < random - DEPTH_MARGIN
