"""The drawn pictures: the same everywhere, balanced, and not to be told apart by their pixels or colours."""

from __future__ import annotations

import pickle
import time
from typing import Any

import numpy as np
import pytest

from dinotrain.data.source import Source
from dinotrain.data.sources.embedded import EmbeddedSource


def _images(source: EmbeddedSource) -> np.ndarray:
    return np.stack([source.image(index) for index in range(len(source))])


def _knn_accuracy(features: np.ndarray, labels: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> float:
    """Share of queries that their 20 nearest neighbours by cosine, weighted by exp(cosine / 0.07), classify right."""
    middle = features.mean(0)
    bank, asked = (part - middle for part in (features, queries))
    bank, asked = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (bank, asked))
    near = asked @ bank.T
    nearest = np.argsort(-near, axis=1)[:, :20]
    weights = np.exp(np.take_along_axis(near, nearest, axis=1) / 0.07)
    votes = np.zeros((len(asked), labels.max() + 1))
    np.add.at(votes, (np.arange(len(asked))[:, None], labels[nearest]), weights)
    return float((votes.argmax(1) == truth).mean())


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255


def _colors(images: np.ndarray) -> np.ndarray:
    """Mean, spread and a histogram of the values of each channel, each of one weight, [n, 3 * (2 + 8)]."""
    values = images.reshape(len(images), -1, 3).astype(np.float32) / 255
    shares = [((values >= low / 8) & (values < low / 8 + 0.125 + low // 7)).mean(1) for low in range(8)]
    numbers = np.concatenate([values.mean(1), values.std(1), *shares], axis=1)
    return (numbers - numbers.mean(0)) / numbers.std(0)


@pytest.fixture(scope="module")
def train() -> EmbeddedSource:
    return EmbeddedSource(length=2000)


@pytest.fixture(scope="module")
def test(train: EmbeddedSource) -> EmbeddedSource:
    source = train.test()
    assert source is not None
    return source


def test_default_lengths() -> None:
    source = EmbeddedSource()
    test = source.test()
    assert test is not None
    assert (len(source), len(test)) == (10_000, 2_000)
    assert test.test() is None
    assert isinstance(source, Source)


def test_images_and_names() -> None:
    source = EmbeddedSource(length=130, size=40)
    image = source.image(123)
    assert image.shape == (40, 40, 3)
    assert image.dtype == np.uint8
    assert image.std() > 10
    assert source.name(123) == "embedded/train/000123"
    image[:] = 0
    assert source.image(123).any()
    with pytest.raises(IndexError, match=r"index: got 130, must be in 0\.\.129"):
        source.image(130)


def test_an_image_depends_on_seed_split_and_number_only() -> None:
    source = EmbeddedSource(length=500)
    for other in (EmbeddedSource(length=500), EmbeddedSource(length=250), pickle.loads(pickle.dumps(source))):
        assert (_images(other) == _images(source)[: len(other)]).all()
        assert (other.labels == source.labels[: len(other)]).all()
    for other in (EmbeddedSource(length=500, seed=1), EmbeddedSource(length=500, split="test")):
        assert (_images(other) != _images(source)).any(axis=(1, 2, 3)).all()
        assert (other.labels != source.labels).any()


def test_no_image_is_met_twice(train: EmbeddedSource, test: EmbeddedSource) -> None:
    seen = {image.tobytes() for source in (train, test) for image in _images(source)}
    assert len(seen) == len(train) + len(test)


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_are_balanced(split: str) -> None:
    source = EmbeddedSource(split=split)
    assert len(set(source.classes)) >= 10
    assert source.labels.dtype == np.int64
    assert (np.bincount(source.labels) == len(source) // len(source.classes)).all()
    assert (source.labels[:100] != np.tile(source.labels[:10], 10)).any()


def test_fingerprints_differ_with_the_images() -> None:
    settings: tuple[dict[str, Any], ...] = ({}, {"split": "test"}, {"size": 32}, {"length": 50}, {"seed": 3})
    assert len({EmbeddedSource(**setting).fingerprint() for setting in settings}) == len(settings)
    assert EmbeddedSource().fingerprint() == EmbeddedSource().fingerprint()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"split": "val"}, "split: got 'val', must be 'train' or 'test'"),
        ({"size": 8}, "size: got 8, must be a whole number of at least 16"),
        ({"length": 0}, "length: got 0, must be a whole number of at least 1"),
        ({"length": 2.5}, "length: got 2.5, must be a whole number of at least 1"),
        ({"seed": -1}, "seed: got -1, must be a whole number of at least 0"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("'", ".") + "$"):
        EmbeddedSource(**setting)


def test_pixels_do_not_tell_the_class(train: EmbeddedSource, test: EmbeddedSource) -> None:
    bank, asked = (_pixels(_images(source)) for source in (train, test))
    assert _knn_accuracy(bank, train.labels, asked, test.labels) < 0.5


def test_colors_hardly_tell_the_class(train: EmbeddedSource, test: EmbeddedSource) -> None:
    bank, asked = (_colors(_images(source)) for source in (train, test))
    assert _knn_accuracy(bank, train.labels, asked, test.labels) < 0.2  # chance: 0.1


def test_drawing_is_fast() -> None:
    source = EmbeddedSource(length=1000)
    start = time.process_time()
    source.image(0)
    assert time.process_time() - start < 2  # about 0.3 s where nothing else runs
