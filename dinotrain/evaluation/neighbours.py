"""Exact search for the most similar rows of a bank that may be larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from dinotrain.distributed.collectives import gather_rows
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.finite import finite

Library = Literal["faiss", "torch"]
Look = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(queries [q, D], k) -> similarities [q, k] and columns [q, k] of one part of the bank, both in their final order."""


class Neighbours(NamedTuple):
    """The most similar rows of a bank, the most similar first; of equally similar ones that with the lower number.

    Equal means equal in float32, after the rounding of the product.
    """

    similarity: Float[Tensor, "m k"]
    index: Int64[Tensor, "m k"]


@torch.no_grad()
def nearest(
    bank: Float[Tensor, "n D"],
    queries: Float[Tensor, "m D"],
    k: int,
    *,
    cosine: bool = True,
    world: World | None = None,
    library: Library | None = None,
    query_chunk: int = 1024,
    bank_chunk: int = 32768,
    check: Callable[[], object] = lambda: None,
) -> Neighbours:
    """The k rows of the bank with the largest inner product with each query; all rows if k is beyond their number.

    Both are read in chunks and computed with in float32, so they may be memory-mapped and in half precision. What is
    not finite in them counts as zero.

    Args:
        cosine: scale all rows to length 1 first.
        world: its processes, which all hold the same bank and queries, share the work; each gets all of the result, on
            its device. They search in the chunks that one process would use, so the result is the same to the bit.
            None for this process alone, on the device of the queries.
        library: None for faiss on a CPU where it is installed, else torch.
        check: called before each chunk, by all processes equally often; may raise to end the search.

    Raises:
        UserError: if faiss is asked for, and not there.
    """
    device = queries.device if world is None else world.device
    k = min(k, bank.shape[0])
    mine = chunks(queries.shape[0], query_chunk, world)
    found = [_nothing(0 if rows is None else rows.stop - rows.start, device) for rows in mine]
    prepare = _searcher(library, device)
    for start in range(0, bank.shape[0], bank_chunk):
        look = prepare(rows_of(bank, slice(start, start + bank_chunk), cosine, device))
        for number, rows in enumerate(mine):
            check()
            if rows is not None:
                values, columns = look(rows_of(queries, rows, cosine, device), k)
                found[number] = _merged(found[number], Neighbours(values, columns + start), k)
    own = [part for part, rows in zip(found, mine) if rows is not None]
    similarity = torch.cat([part.similarity for part in own]) if own else torch.empty(0, k, device=device)
    index = torch.cat([part.index for part in own]) if own else torch.empty(0, k, device=device, dtype=torch.int64)
    return Neighbours(similarity, index) if world is None else Neighbours(gather_rows(similarity), gather_rows(index))


def chunks(count: int, size: int, world: World | None) -> list[slice | None]:
    """The parts of `count` rows that fall to this process, neighbouring ones; on all the same number of items.

    The parts together, and so what is computed of each, are the same for any number of processes. None: nothing to do.
    """
    processes, rank = (1, 0) if world is None else (world.size, world.rank)
    parts = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    share = -(-len(parts) // processes)
    own = parts[rank * share : (rank + 1) * share]
    return [*own, *[None] * (share - len(own))]


def rows_of(x: Float[Tensor, "n D"], rows: slice, cosine: bool, device: torch.device) -> Float[Tensor, "r D"]:
    """Some rows on a device, in float32, without what is not finite; of length 1 for cosine similarities."""
    part = finite(x[rows], device)
    return F.normalize(part, dim=1) if cosine else part


def _nothing(rows: int, device: torch.device) -> Neighbours:
    return Neighbours(torch.empty(rows, 0, device=device), torch.empty(rows, 0, dtype=torch.int64, device=device))


def _merged(old: Neighbours, new: Neighbours, k: int) -> Neighbours:
    """The best of both. All numbers of `old` are lower, so a stable sort leaves ties as they should be."""
    similarity = torch.cat([old.similarity, new.similarity], dim=1)
    similarity, order = similarity.sort(dim=1, descending=True, stable=True)
    index = torch.cat([old.index, new.index], dim=1).gather(1, order[:, :k])
    return Neighbours(similarity[:, :k], index)


def _searcher(library: Library | None, device: torch.device) -> Callable[[Tensor], Look]:
    if library == "torch" or (library is None and device.type != "cpu"):
        return _torch_search
    try:
        import faiss
    except ImportError:
        if library is None:
            return _torch_search
        raise UserError("faiss is not installed: pip install faiss-cpu") from None
    return lambda bank: _faiss_search(bank, faiss)


def _torch_search(bank: Tensor) -> Look:
    def look(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return top(queries @ bank.T, k)

    return look


def _faiss_search(bank: Tensor, faiss: Any) -> Look:
    index: Any = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank.numpy())

    def look(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        k, wanted = min(k, bank.shape[0]), min(k + 1, bank.shape[0])
        with _threads_of_torch(faiss):
            values, columns = (torch.from_numpy(x) for x in index.search(queries.contiguous().numpy(), wanted))
        similarity, order = _in_order(values[:, :k].contiguous(), columns[:, :k].contiguous())
        if wanted > k:
            # Which of the equally similar ones at the end faiss returns is left to chance.
            open_end = (values[:, k] == values[:, k - 1]).nonzero().flatten()
            if len(open_end):
                similarity[open_end], order[open_end] = top(queries[open_end] @ bank.T, k)
        return similarity, order

    return look


@contextmanager
def _threads_of_torch(faiss: Any) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def top(similarity: Float[Tensor, "q n"], k: int) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """The k largest of each row, or all of fewer, in descending order, of equal ones that of the lower column."""
    k, wanted = min(k, similarity.shape[1]), min(k + 1, similarity.shape[1])
    values, columns = similarity.topk(wanted, dim=1)
    if wanted > k:
        open_end = (values[:, k] == values[:, k - 1]).nonzero().flatten()
        values, columns = values[:, :k].contiguous(), columns[:, :k].contiguous()
        if len(open_end):
            columns[open_end] = _first_columns(similarity[open_end], values[open_end, -1:], k)
            values[open_end] = similarity[open_end].gather(1, columns[open_end])
    return _in_order(values, columns)


def _first_columns(similarity: Float[Tensor, "t n"], last: Float[Tensor, "t 1"], k: int) -> Int64[Tensor, "t k"]:
    """The columns above the k-th value, and as many of those equal to it, from the left, as make up k."""
    above, equal = similarity > last, similarity == last
    missing = k - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1) <= missing))
    return chosen.nonzero()[:, 1].view(-1, k)


def _in_order(values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted by value, descending, then by column."""
    tied = (values[:, 1:] == values[:, :-1]).any(dim=1).nonzero().flatten()
    if len(tied):
        ascending, order = columns[tied].sort(dim=1)
        values[tied], order = values[tied].gather(1, order).sort(dim=1, descending=True, stable=True)
        columns[tied] = ascending.gather(1, order)
    return values, columns
