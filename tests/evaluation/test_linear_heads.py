from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spawn import run_processes

from dinotrain.evaluation.linear.heads import Classifier, HeadInput, LinearHeads, Loss

INPUTS = (HeadInput("small", slice(4, 10)), HeadInput("all", slice(0, 10)))
RATES = (0.01, 0.1, 0.7)
CLASSES, STEPS = 5, 12


def data(loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(STEPS, 16, 10, generator=generator)
    if loss == "bce":
        return features, (torch.rand(STEPS, 16, CLASSES, generator=generator) < 0.3).float()
    return features, F.one_hot(torch.randint(0, CLASSES, (STEPS, 16), generator=generator), CLASSES).float()


def heads(loss: Loss = "cross_entropy", rank: int = 0, size: int = 1, steps: int = STEPS) -> LinearHeads:
    return LinearHeads(INPUTS, RATES, classes=CLASSES, steps=steps, loss=loss, seed=3, rank=rank, size=size)


def trained(loss: Loss = "cross_entropy", rank: int = 0, size: int = 1) -> LinearHeads:
    made = heads(loss, rank, size)
    for features, targets in zip(*data(loss)):
        made.step(features, targets)
    return made


def alone(start: Classifier, rate: float, loss: Loss) -> torch.nn.Linear:
    """The same head by itself, by means of torch."""
    layer = torch.nn.Linear(start.weight.shape[0], CLASSES)
    with torch.no_grad():
        layer.weight.copy_(start.weight.T)
        layer.bias.copy_(start.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=0)
    for features, targets in zip(*data(loss)):
        logits = layer(features[:, start.columns])
        if loss == "bce":
            value = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(targets)
        else:
            value = F.cross_entropy(logits, targets.argmax(dim=1))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return layer


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_each_is_what_it_would_be_alone(loss: Loss) -> None:
    starts = {
        number: Classifier(c.columns, c.weight.clone(), c.bias.clone()) for number, c in heads(loss).classifiers()
    }
    found = dict(trained(loss).classifiers())
    assert sorted(found) == list(range(6))
    for number, classifier in found.items():
        expected = alone(starts[number], RATES[number % 3], loss)
        torch.testing.assert_close(classifier.weight, expected.weight.detach().T, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(classifier.bias, expected.bias.detach(), atol=2e-6, rtol=1e-5)


def test_heads_of_one_input_start_alike_and_depend_on_the_seed() -> None:
    first = dict(heads().classifiers())
    assert torch.equal(first[0].weight, first[2].weight)
    assert not torch.equal(first[0].weight, first[3].weight[4:10])
    other = LinearHeads(INPUTS, RATES, classes=CLASSES, steps=1, seed=4)
    assert not torch.equal(first[0].weight, dict(other.classifiers())[0].weight)
    assert 0.005 < float(first[3].weight.std()) < 0.02


def test_logits_are_those_of_the_columns_it_sees() -> None:
    classifier = dict(trained().classifiers())[1]
    x = data("cross_entropy")[0][0]
    torch.testing.assert_close(classifier.logits(x), x[:, 4:10] @ classifier.weight + classifier.bias)


def test_it_learns_what_can_be_separated() -> None:
    generator = torch.Generator().manual_seed(1)
    centres = 3 * torch.randn(CLASSES, 10, generator=generator)
    made = heads(steps=60)
    for _ in range(60):
        labels = torch.randint(0, CLASSES, (32,), generator=generator)
        made.step(centres[labels] + torch.randn(32, 10, generator=generator), F.one_hot(labels, CLASSES).float())
    answers = dict(made.classifiers())[4].logits(centres).argmax(dim=1)
    assert torch.equal(answers, torch.arange(CLASSES))


def share(rank: int, size: int) -> tuple[list[int], list[np.ndarray]]:
    made = trained("cross_entropy", rank, size)
    everywhere = [made.classifier(number) for number in range(len(made))]
    return [number for number, _ in made.classifiers()], [
        torch.cat([c.weight, c.bias[None]]).numpy() for c in everywhere
    ]


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_heads_and_hand_them_out(count: int) -> None:
    expected = share(0, 1)[1]
    results = run_processes(count, share, count)
    assert sorted(number for numbers, _ in results for number in numbers) == list(range(6))
    for _, found in results:
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
