from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from spawn import run_processes

from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.neighbours import Library, Neighbours, chunks, nearest, top

LIBRARIES: tuple[Library, ...] = ("faiss", "torch")


def random(rows: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def brute_force(bank: torch.Tensor, queries: torch.Tensor, k: int, *, cosine: bool = True) -> np.ndarray:
    """All similarities in double precision, sorted; ties by number."""
    a, b = bank.double().numpy(), queries.double().numpy()
    if cosine:
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return np.argsort(-(b @ a.T), axis=1, kind="stable")[:, :k]


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    if request.param == "faiss":
        pytest.importorskip("faiss")
    return request.param


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize(("query_chunk", "bank_chunk"), [(1024, 32768), (7, 50), (100, 3)])
def test_it_finds_what_a_brute_force_search_finds(
    library: Library, query_chunk: int, bank_chunk: int, cosine: bool
) -> None:
    bank, queries = random(501, 12, 0), random(40, 12, 1)
    found = nearest(bank, queries, 20, cosine=cosine, library=library, query_chunk=query_chunk, bank_chunk=bank_chunk)
    assert np.array_equal(found.index.numpy(), brute_force(bank, queries, 20, cosine=cosine))
    assert (found.similarity.diff(dim=1) <= 0).all()


def test_it_is_the_search_of_scikit_learn(library: Library) -> None:
    from sklearn.neighbors import NearestNeighbors

    bank, queries = random(400, 8, 2), random(30, 8, 3)
    distance, index = NearestNeighbors(n_neighbors=15, metric="cosine").fit(bank.numpy()).kneighbors(queries.numpy())
    found = nearest(bank, queries, 15, library=library)
    assert np.array_equal(found.index.numpy(), index)
    np.testing.assert_allclose(1 - found.similarity.numpy(), distance, atol=1e-6)


@pytest.mark.parametrize("bank_chunk", [1000, 16, 5])
def test_of_equal_rows_the_first_are_found(library: Library, bank_chunk: int) -> None:
    # Each row four times, so that every k ends within equal ones.
    bank = torch.eye(16)[torch.arange(64) % 16]
    queries = torch.cat([torch.eye(16)[:5] * 3 + torch.eye(16)[3:8], torch.ones(1, 16)])
    for k in (1, 2, 3, 5, 6, 40, 63, 64):
        found = nearest(bank, queries, k, library=library, bank_chunk=bank_chunk)
        assert np.array_equal(found.index.numpy(), brute_force(bank, queries, k)), k


def test_a_collapsed_bank_is_listed_in_order(library: Library) -> None:
    # Whole numbers, whose products are exact.
    queries = (4 * random(3, 4, 0)).round()
    found = nearest(torch.ones(300, 4), queries, 10, cosine=False, library=library, bank_chunk=70)
    assert torch.equal(found.index, torch.arange(10).expand(3, 10))


def test_a_bank_in_a_file_is_searched_in_chunks(tmp_path: Path, library: Library) -> None:
    path = tmp_path / "bank.npy"
    np.save(path, random(700, 16, 4).half().numpy())
    stored = np.load(path, mmap_mode="c")
    bank, queries = torch.from_numpy(stored), random(25, 16, 5).half()
    found = nearest(bank, queries, 9, library=library, bank_chunk=64)
    assert np.array_equal(found.index.numpy(), brute_force(bank, queries, 9))
    assert found.similarity.dtype == torch.float32


def test_more_neighbours_than_rows_are_all_rows(library: Library) -> None:
    bank = random(6, 3, 0)
    found = nearest(bank, bank, 200, library=library, bank_chunk=4)
    assert torch.equal(found.index.sort(dim=1).values, torch.arange(6).expand(6, 6))
    assert torch.equal(found.index[:, 0], torch.arange(6))


def test_what_is_not_finite_counts_as_zero(library: Library) -> None:
    bank = torch.tensor([[float("nan"), float("inf")], [1.0, 1.0], [-1.0, -1.0]])
    found = nearest(bank, torch.tensor([[1.0, 1.0], [float("nan"), 0.0]]), 3, library=library)
    assert found.index.tolist() == [[1, 0, 2], [0, 1, 2]]
    assert found.similarity.isfinite().all()


def test_without_faiss_torch_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    bank = random(50, 4, 0)
    assert torch.equal(nearest(bank, bank, 1).index[:, 0], torch.arange(50))
    with pytest.raises(UserError, match="faiss is not installed: pip install faiss-cpu"):
        nearest(bank, bank, 1, library="faiss")


def test_the_threads_of_faiss_are_left_as_they_were() -> None:
    faiss = pytest.importorskip("faiss")
    before = faiss.omp_get_max_threads()
    nearest(random(9, 2, 0), random(3, 2, 0), 2, library="faiss")
    assert faiss.omp_get_max_threads() == before


def test_top_takes_the_first_of_equal_values() -> None:
    values, columns = top(torch.tensor([[1.0, 3.0, 1.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0, 1.0]]), 3)
    assert values.tolist() == [[3.0, 3.0, 1.0], [1.0, 0.0, 0.0]]
    assert columns.tolist() == [[1, 4, 0], [4, 0, 1]]


def world(rank: int, size: int) -> World:
    return World(rank, size, rank, size, torch.device("cpu"), None)


@pytest.mark.parametrize("count", [0, 1, 10, 11, 95, 100])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_processes_have_parts_of_their_own(count: int, size: int) -> None:
    shares = [chunks(count, 10, world(rank, size)) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    rows = [row for share in shares for part in share if part is not None for row in range(part.start, part.stop)]
    assert rows == list(range(count))


def searched(rank: int, size: int) -> tuple[list[torch.Tensor], int]:
    checks = []
    found = nearest(
        random(200, 8, 0),
        random(45, 8, 1),
        12,
        world=world(rank, size),
        query_chunk=10,
        bank_chunk=70,
        check=lambda: checks.append(1),
    )
    return list(found), len(checks)


def test_processes_share_the_search_and_all_get_its_result() -> None:
    (expected, _), several = searched(0, 1), run_processes(2, searched, 2)
    for found, checks in several:
        assert checks == several[0][1]
        assert torch.equal(Neighbours(*found).similarity, expected[0])
        assert torch.equal(Neighbours(*found).index, expected[1])
