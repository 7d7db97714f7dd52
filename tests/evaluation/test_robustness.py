from __future__ import annotations

import numpy as np
import pytest
from fake_setting import Pictures

from dinotrain.errors import UserError
from dinotrain.evaluation.confusion import confusion
from dinotrain.evaluation.linear.robustness import class_map
from dinotrain.evaluation.splits import Split, whole

WNIDS = tuple(f"n{number:08d}" for number in range(12))


def split(labels: list[int], classes: tuple[str, ...] | None) -> Split:
    source = Pictures(len(labels))
    source.labels, source.classes = np.array(labels), classes
    return whole(source, "extra")


def test_all_classes_by_name_in_another_order() -> None:
    found = class_map(split([0, 1, 2, 0], ("c", "a", "b")), ("a", "b", "c"), "sketch")
    assert found.labels.tolist() == [2, 0, 1, 2]
    assert found.allowed is None
    assert found.layout == "classes named as in training"


def test_some_classes_restrict_what_is_predicted() -> None:
    found = class_map(split([1, 0], ("n00000009", "n00000003")), WNIDS, "a")
    assert found.labels.tolist() == [3, 9]
    assert found.allowed is not None
    assert found.allowed.tolist() == [3, 9]


def test_a_class_without_an_image_does_not_count() -> None:
    found = class_map(split([1], ("nowhere", "n00000003")), WNIDS, "a")
    assert found.labels.tolist() == [3]


def test_the_number_of_a_named_class_will_do() -> None:
    named = tuple(f"{wnid} thing {number}" for number, wnid in enumerate(WNIDS))
    assert class_map(split([0], ("n00000005",)), named, "r").labels.tolist() == [5]
    assert class_map(split([0], ("n00000005 thing 5",)), named, "r").labels.tolist() == [5]


def test_numbers_are_those_of_the_sorted_classes_whatever_the_order_of_the_folders() -> None:
    folders = tuple(sorted(map(str, range(12))))  # 0, 1, 10, 11, 2, ...
    shuffled = WNIDS[6:] + WNIDS[:6]
    found = class_map(split(list(range(12)), folders), shuffled, "v2")
    assert [shuffled[number] for number in found.labels] == [WNIDS[int(folder)] for folder in folders]
    assert found.allowed is None
    assert "numbers" in found.layout


def test_numbers_that_are_names_stay_names() -> None:
    classes = ("0", "1", "10", "2")
    assert class_map(split([0], ("10",)), classes, "more").labels.tolist() == [2]


def test_labels_without_names_are_class_numbers() -> None:
    assert class_map(split([3, 1], None), WNIDS, "arrays").labels.tolist() == [3, 1]
    with pytest.raises(UserError, match=r"extra_tests.arrays: class '12' is none of the 12"):
        class_map(split([12], None), WNIDS, "arrays")


@pytest.mark.parametrize("classes", [("n00000001", "wolf"), ("wolf",), ("3", "12")])
def test_others_are_refused_by_name(classes: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=f"^extra_tests.a: class '{classes[-1]}' is none of the 12 training classes"):
        class_map(split(list(range(len(classes))), classes), WNIDS, "a")


def test_few_classes_make_a_matrix() -> None:
    matrices, tables = confusion(np.array([0, 0, 0, 0, 2]), np.array([0, 0, 0, 1, 2]), ("a", "b", "c"))
    assert not tables
    assert matrices[0].rows == matrices[0].columns == ("a", "b", "c")
    assert matrices[0].values == ((75.0, 25.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 100.0))


def test_many_classes_make_a_table_of_pairs() -> None:
    labels = np.repeat(np.arange(50), 4)
    predicted = labels.copy()
    predicted[[0, 1, 8]] = 7, 7, 9
    matrices, tables = confusion(labels, predicted, tuple(f"class {number}" for number in range(50)))
    assert not matrices
    assert tables[0].rows == (
        ("class 0", "class 7", "2 of 4", "50.0"),
        ("class 2", "class 9", "1 of 4", "25.0"),
    )
