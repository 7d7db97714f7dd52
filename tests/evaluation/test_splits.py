from __future__ import annotations

import numpy as np
import pytest
from evaluation_images import Drawn

from dinotrain.errors import UserError
from dinotrain.evaluation.relabelled import in_classes_of
from dinotrain.evaluation.splits import Split, held_out, random_part, whole


def test_a_tenth_of_every_class_is_held_out() -> None:
    labels = np.repeat([3, 0, 7], [40, 100, 5])
    fit, held = held_out(labels, 0.1, seed=1)
    assert sorted([*fit, *held]) == list(range(145))
    assert np.bincount(labels[held])[[3, 0, 7]].tolist() == [4, 10, 1]


def test_what_is_held_out_depends_on_the_seed_alone() -> None:
    labels = np.arange(300) % 5
    assert np.array_equal(held_out(labels, 0.2, seed=3)[1], held_out(labels, 0.2, seed=3)[1])
    assert not np.array_equal(held_out(labels, 0.2, seed=3)[1], held_out(labels, 0.2, seed=4)[1])


def test_a_class_keeps_an_image_to_learn_from_whatever_the_share() -> None:
    fit, held = held_out(np.array([0, 0, 1, 1]), 0.9, seed=0)
    assert len(fit) == 2
    assert len(held) == 2


def test_a_class_with_a_single_image_is_named() -> None:
    with pytest.raises(UserError, match=r"class heron \(and 1 more\) has a single training image.*validation_root"):
        held_out(np.array([0, 0, 1, 2]), 0.1, seed=0, classes=("crow", "heron", "owl"))


def test_without_classes_some_images_are_held_out() -> None:
    kept, held = random_part(20, 0.1, seed=0)
    assert len(held) == 2
    assert sorted([*kept, *held]) == list(range(20))
    with pytest.raises(UserError, match="got 1 images, expected at least 2"):
        random_part(1, 0.1, seed=0)


def test_a_split_has_the_labels_of_its_images() -> None:
    split = Split(Drawn(6, labels=[0, 1, 2, 0, 1, 2]), np.array([5, 1]), "train")
    assert split.labels.tolist() == [2, 1]
    assert split.part(np.array([1])).labels.tolist() == [1]
    with pytest.raises(UserError, match="the test images have no labels"):
        _ = whole(Drawn(3), "test").labels


def test_a_draw_is_repeated_and_in_order() -> None:
    one, other = (whole(Drawn(50), "train").drawn(10, seed=2).indices for _ in range(2))
    assert np.array_equal(one, other)
    assert np.array_equal(one, np.sort(one))
    assert len(set(one)) == 10


def test_classes_are_told_by_their_names() -> None:
    train = Drawn(3, labels=[0, 1, 2], classes=("ant", "bee", "cat"))
    test = Drawn(4, labels=[0, 1, 1, 0], classes=("bee", "cat"))
    assert in_classes_of(train, test, "test_root").labels.tolist() == [1, 2, 2, 1]  # pyright: ignore


def test_a_class_that_nobody_learns_is_refused() -> None:
    train = Drawn(2, labels=[0, 1], classes=("ant", "bee"))
    with pytest.raises(UserError, match=r"test_root: class 'cow' is not among the training images' \(ant, bee\)"):
        in_classes_of(train, Drawn(1, labels=[0], classes=("cow",)), "test_root")
    with pytest.raises(UserError, match="class number 9 is not among"):
        in_classes_of(Drawn(2, labels=[0, 1]), Drawn(1, labels=[9]), "test_root")
    with pytest.raises(UserError, match="these images have no labels"):
        in_classes_of(train, Drawn(1), "test_root")


def test_a_class_without_test_images_may_be_missing_in_train() -> None:
    train = Drawn(2, labels=[0, 1], classes=("ant", "bee"))
    test = Drawn(1, labels=[2], classes=("ant", "zebra", "bee"))
    assert in_classes_of(train, test, "test_root").labels.tolist() == [1]  # pyright: ignore
