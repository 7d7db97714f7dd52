from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_setting import Pictures, fake_setting

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import Admits
from dinotrain.evaluation.splits import whole
from dinotrain.evaluation.tasks.clusters import Clusters
from dinotrain.evaluation.tasks.knn import Knn
from dinotrain.evaluation.tasks.retrieval import Retrieval
from dinotrain.evaluation.tiles import GREY


class Lost(Pictures):
    """None of its images can be read any more."""

    def image(self, index: int, admits: Admits | None = None) -> np.ndarray:
        raise BrokenImage("gone")


@pytest.mark.parametrize("task", [Knn(k=(3,)), Retrieval(k=(1,)), Clusters(restarts=1)])
def test_images_that_are_gone_are_grey(task: Knn | Retrieval | Clusters) -> None:
    setting = fake_setting(spread=2.0)
    gone = replace(setting, train=whole(Lost(120, seed=1), "train"), test=whole(Lost(60, seed=2), "test"))
    expected, found = task.run(setting), task.run(gone)
    assert found.numbers == expected.numbers
    (before,), (after,) = expected.pictures, found.pictures
    assert before.image.shape == after.image.shape
    assert (after.image == np.array(GREY, np.uint8)).all(axis=2).mean() > 0.6
