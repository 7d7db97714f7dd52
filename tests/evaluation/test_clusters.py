from __future__ import annotations

import re

import numpy as np
import pytest
from fake_setting import fake_setting

from dinotrain.errors import UserError
from dinotrain.evaluation.tasks.clusters import Clusters


def test_classes_far_apart_are_found_without_labels() -> None:
    outcome = Clusters().run(fake_setting(classes=6, test=120, spread=0.1))
    assert outcome.numbers == pytest.approx({"accuracy": 100, "nmi": 100, "ari": 100})
    assert outcome.protocol["clusters"] == 6


def test_noise_gives_what_chance_gives() -> None:
    outcome = Clusters().run(fake_setting(classes=4, test=400, train=8, spread=100.0))
    assert 25 < outcome.numbers["accuracy"] < 45
    assert outcome.numbers["nmi"] < 5
    assert abs(outcome.numbers["ari"]) < 5


def test_numbers_are_means_over_the_images_that_were_drawn() -> None:
    outcome = Clusters(max_images=50, clusters=7).run(fake_setting(test=80, spread=1.0, broken=(5,)))
    assert outcome.per_image is not None
    assert len(outcome.per_image.rows) == 50
    assert 5 not in outcome.per_image.rows
    assert 100 * outcome.per_image.arrays["value"].mean() == pytest.approx(outcome.numbers["accuracy"], abs=1e-4)
    assert sum(int(row[1]) for row in outcome.tables[0].rows) == 50
    assert "none" in {row[2] for row in outcome.tables[0].rows}
    assert outcome.protocol["images"] == "50 of the test images, without labels"


def test_more_clusters_than_images_are_told() -> None:
    outcome = Clusters(clusters=90).run(fake_setting(test=60))
    assert outcome.notes == ("90 clusters are more than the 60 images: one for each",)


def test_the_picture_has_a_row_for_each_cluster() -> None:
    (picture,) = Clusters(clusters=3).run(fake_setting(spread=1.0)).pictures
    height, width, _ = picture.image.shape
    assert height == 3 * 92 + 4
    names = picture.image[:, : width - (10 * 92 + 4)]
    # The class of each stands before its row.
    assert all((row < 128).any() for row in np.array_split(names, 3))
    assert "orange: of another" in picture.note


def test_images_without_labels_are_refused() -> None:
    setting = fake_setting()
    setting.test.source.labels = None
    with pytest.raises(UserError, match="the test images have no labels"):
        Clusters().run(setting)


@pytest.mark.parametrize("options", [{"clusters": 1}, {"restarts": 0}, {"iterations": 0}, {"max_images": 1}])
def test_bad_options_are_refused(options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}: got {value}, must be a whole number at least")):
        Clusters(**options)  # pyright: ignore[reportArgumentType]


def test_the_same_seed_gives_the_same_clusters() -> None:
    first, second = (Clusters().run(fake_setting(spread=1.5)) for _ in range(2))
    assert first.per_image is not None
    assert second.per_image is not None
    assert np.array_equal(first.per_image.arrays["value"], second.per_image.arrays["value"])
