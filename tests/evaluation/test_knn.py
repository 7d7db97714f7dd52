from __future__ import annotations

import math

import pytest
import torch

from dinotrain.evaluation.knn import knn_accuracy


def naive(bank, labels, query, k, temperature):
    """One query at a time, one neighbour at a time."""
    similarity = [float(torch.nn.functional.cosine_similarity(query, row, dim=0)) for row in bank]
    nearest = sorted(range(len(similarity)), key=lambda i: -similarity[i])[:k]
    votes: dict[int, float] = {}
    for i in nearest:
        votes[int(labels[i])] = votes.get(int(labels[i]), 0.0) + math.exp(similarity[i] / temperature)
    return max(votes, key=lambda label: votes[label])


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_naive_search(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bank, queries = torch.randn(60, 5, generator=generator), torch.randn(23, 5, generator=generator)
    bank_labels = torch.randint(0, 4, (60,), generator=generator)
    query_labels = torch.randint(0, 4, (23,), generator=generator)
    found = knn_accuracy(bank, bank_labels, queries, query_labels, k=(1, 7, 20), temperature=0.07, chunk=10)
    for k, accuracy in found.items():
        right = [naive(bank, bank_labels, q, k, 0.07) == int(t) for q, t in zip(queries, query_labels)]
        assert accuracy == pytest.approx(100 * sum(right) / len(right))


def test_a_k_beyond_the_bank_means_the_whole_bank() -> None:
    bank, labels = torch.eye(3), torch.tensor([0, 1, 2])
    assert knn_accuracy(bank, labels, bank, labels, k=(200,)) == {200: 100.0}


def test_centering_takes_off_what_all_share() -> None:
    offset = torch.full((4,), 100.0)
    bank = offset + torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [-1.0, -1.0, 0, 0]])
    query = offset + torch.tensor([[0.4, 0.1, 0, 0]])
    found = knn_accuracy(bank, torch.tensor([0, 1, 2]), query, torch.tensor([0]), k=(1,), center=True)
    assert found == {1: 100.0}
