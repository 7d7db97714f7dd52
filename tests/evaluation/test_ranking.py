from __future__ import annotations

import numpy as np
import pytest
import torch

from dinotrain.data.sources.landmarks import Relevance
from dinotrain.distributed.world import World
from dinotrain.evaluation import ranking
from dinotrain.evaluation.landmark_scores import landmark_scores
from dinotrain.evaluation.ranking import average_precisions, places_of, ranked_by_class, rankings


def world() -> World:
    return World(0, 1, 0, 1, torch.device("cpu"), None)


def random(rows: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def test_rankings_by_hand() -> None:
    database = torch.tensor([[0.0, 1.0], [2.0, 0.1], [1.0, 0.0], [5.0, 5.0], [1.0, 0.0]])
    queries = torch.tensor([[3.0, 0.0], [0.0, 0.1]])
    # Of equal ones, the first comes first.
    assert rankings(database, queries, world=world()).tolist() == [[2, 4, 1, 3, 0], [0, 3, 1, 2, 4]]


def test_average_precision_by_hand() -> None:
    relevant = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    places, counts = places_of(torch.arange(5, 0, -1).float().expand(4, 5), relevant)
    assert [row[:count].tolist() for row, count in zip(places, counts)] == [[0, 2], [4], [0, 1, 2, 3, 4], []]
    found = average_precisions(places, counts)
    assert found[:3].tolist() == pytest.approx([(1 / 1 + 2 / 3) / 2, 1 / 5, 1])
    assert found[3].isnan()


def test_it_is_the_average_precision_of_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score

    database, queries = random(300, 6, 0), random(40, 6, 1)
    labels, truth = np.arange(300) % 7, np.arange(40) % 8
    found = ranked_by_class(database, labels, queries, truth, world=world())
    similarity = torch.nn.functional.cosine_similarity(queries[:, None], database[None], dim=2).numpy()
    for query in range(40):
        relevant = labels == truth[query]
        if not relevant.any():
            assert np.isnan(found.average_precision[query])
            assert found.first[query] == -1
            continue
        expected = average_precision_score(relevant, similarity[query])
        assert found.average_precision[query] == pytest.approx(expected, abs=1e-6)
        assert found.first[query] == np.flatnonzero(relevant[np.argsort(-similarity[query])])[0]


@pytest.mark.parametrize("levels", [3, 1000])
def test_places_are_those_of_a_whole_ranking(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    similarity = torch.randint(-levels, levels, (20, 400), generator=generator) / levels
    similarity[0, ::2] = -0.0
    relevant = torch.rand(20, 400, generator=generator) < torch.linspace(0, 0.5, 20)[:, None]
    places, counts = places_of(similarity, relevant)
    order = similarity.sort(dim=1, descending=True, stable=True).indices
    for query in range(20):
        assert torch.equal(places[query, : counts[query]], relevant[query][order[query]].nonzero()[:, 0])


@pytest.mark.parametrize("free", [0, 120_000, 2**30])
def test_a_database_is_moved_once_if_there_is_room(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    database, queries = random(2000, 20, 0).half(), random(90, 20, 1)
    labels, truth = np.arange(2000) % 7, np.arange(90) % 7
    expected = ranked_by_class(database, labels, queries, truth, world=world())
    asked, scaled = [], ranking.rows_of
    monkeypatch.setattr(ranking, "room", lambda device, processes: free)
    monkeypatch.setattr(ranking, "rows_of", lambda x, *more: asked.append(len(x)) or scaled(x, *more))
    monkeypatch.setattr(ranking, "_MOST_HELD", {"cpu": 60_000})
    monkeypatch.setattr(ranking, "_MOST_AT_ONCE", {"cpu": 14_000})
    ticks: list[int] = []
    found = ranked_by_class(database, labels, queries, truth, world=world(), check=lambda: ticks.append(1))
    assert np.allclose(found.average_precision, expected.average_precision)
    assert np.array_equal(found.first, expected.first)
    # Three chunks of 30 queries, in each five of up to 7; the database is scaled for each, or once.
    assert len(ticks) == 15
    assert asked.count(2000) == (1 if free == 2**30 else 3)


def lists(easy: list[int], hard: list[int], junk: list[int]) -> Relevance:
    return Relevance(*(np.array(numbers, np.int64) for numbers in (easy, hard, junk)))


def test_the_revisited_protocol_by_hand() -> None:
    """One query; the ranking is 5 3 0 4 1 2, easy 3 and 1, hard 4, junk 5."""
    order, truth = np.array([[5, 3, 0, 4, 1, 2]]), [lists([3, 1], [4], [5])]
    easy = landmark_scores(order, truth, "easy", (1, 5))
    # Without junk and hard: 3 0 1 2, positives at places 0 and 2.
    assert easy.average_precision[0] == pytest.approx(((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    # The last positive is the third: of five, only three count.
    assert easy.precision[0].tolist() == pytest.approx([1, 2 / 3])
    medium = landmark_scores(order, truth, "medium", (1, 2))
    # Without junk: 3 0 4 1 2, positives at 0, 2 and 3.
    precisions = ((1 + 1) / 2, (1 / 2 + 2 / 3) / 2, (2 / 3 + 3 / 4) / 2)
    assert medium.average_precision[0] == pytest.approx(sum(precisions) / 3)
    assert medium.precision[0].tolist() == pytest.approx([1, 1 / 2])
    hard = landmark_scores(order, truth, "hard", (1, 5))
    # Without junk and easy: 0 4 2, the positive at place 1.
    assert hard.average_precision[0] == pytest.approx((0 + 1 / 2) / 2)
    assert hard.precision[0].tolist() == pytest.approx([0, 1 / 2])


def test_queries_without_positives_do_not_count() -> None:
    order = np.array([[0, 1, 2], [0, 1, 2]])
    found = landmark_scores(order, [lists([], [1], []), lists([0], [], [1])], "hard", (1,))
    assert found.average_precision[0] == pytest.approx(1 / 4)
    assert np.isnan(found.average_precision[1])
    assert np.isnan(found.precision[1]).all()
