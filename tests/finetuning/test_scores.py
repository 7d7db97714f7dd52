"""What scores are worth, and the thresholds that are chosen by them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss, recall_score

from dinotrain.finetuning.scores import best_thresholds, measure_multi, measure_single, probabilities


def random_scores(images: int, classes: int) -> tuple[np.ndarray, np.random.Generator]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(images, classes)).astype(np.float32), generator


def test_single_labels_agree_with_scikit_learn() -> None:
    scores, generator = random_scores(200, 7)
    labels = generator.integers(0, 6, 200)  # the last class has no image
    found = measure_single(scores, labels)
    answers = scores.argmax(axis=1)
    assert list(found.numbers) == ["top1", "top5", "mean_class_recall", "loss"]
    assert found.numbers["top1"] == pytest.approx(100 * (answers == labels).mean())
    top5 = np.argsort(-scores, axis=1)[:, :5]
    assert found.numbers["top5"] == pytest.approx(100 * (top5 == labels[:, None]).any(axis=1).mean())
    recall = np.array([100 * (answers[labels == number] == number).mean() for number in range(6)])
    assert found.recall[:6] == pytest.approx(recall)
    assert np.isnan(found.recall[6])
    assert found.numbers["mean_class_recall"] == pytest.approx(recall.mean())
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert found.numbers["loss"] == pytest.approx(log_loss(labels, softmax, labels=range(7)), rel=1e-5)


def test_few_classes_have_no_top5() -> None:
    scores, generator = random_scores(20, 5)
    assert "top5" not in measure_single(scores, generator.integers(0, 5, 20)).numbers


def test_multi_labels_agree_with_scikit_learn() -> None:
    scores, generator = random_scores(150, 4)
    labels = generator.random((150, 4)) < [0.5, 0.2, 0.05, 0.0]
    found = measure_multi(scores, labels)
    precisions = [100 * average_precision_score(labels[:, column], scores[:, column]) for column in range(3)]
    assert found.average_precision is not None
    assert found.average_precision[:3] == pytest.approx(precisions)
    assert found.numbers["map"] == pytest.approx(np.mean(precisions))
    assert found.thresholds is not None
    answers = probabilities(scores) >= found.thresholds
    recalls = [recall_score(labels[:, column], answers[:, column]) for column in range(3)]
    assert found.recall[:3] == pytest.approx(100 * np.array(recalls))
    assert found.numbers["mean_class_f1"] == pytest.approx(
        100 * f1_score(labels[:, :3], answers[:, :3], average="macro")
    )


def test_thresholds_are_those_of_the_highest_f1() -> None:
    scores, generator = random_scores(60, 3)
    labels = generator.random((60, 3)) < 0.3
    found = probabilities(scores)
    for column, threshold in enumerate(best_thresholds(found, labels)):
        reached = f1_score(labels[:, column], found[:, column] >= threshold)
        best = max(f1_score(labels[:, column], found[:, column] >= value) for value in found[:, column])
        assert reached == pytest.approx(best)


def test_a_threshold_lies_between_two_probabilities() -> None:
    found = np.array([[0.9], [0.8], [0.3], [0.1]])
    labels = np.array([[True], [True], [False], [False]])
    assert best_thresholds(found, labels).tolist() == pytest.approx([0.55])


def test_equal_probabilities_are_not_parted() -> None:
    found = np.array([[0.7], [0.7], [0.7], [0.2]])
    labels = np.array([[True], [False], [False], [True]])
    # Apart, the first would be right alone; together with the other two it is best to say yes to all.
    assert best_thresholds(found, labels)[0] <= 0.2


def test_without_positives_the_threshold_is_a_half() -> None:
    assert best_thresholds(np.array([[0.9], [0.2]]), np.zeros((2, 1), bool)).tolist() == [0.5]
