from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from preparing.image_sets import encoded, picture

import dinotrain.preparing.near_pairs as module
from dinotrain.data.images import decode
from dinotrain.preparing.duplicates import RECENT, DigestTable
from dinotrain.preparing.near_pairs import near_pairs
from dinotrain.preparing.perceptual_hash import perceptual_hash
from dinotrain.preparing.verdicts import verdicts


def crowded(generator: np.random.Generator, count: int) -> np.ndarray:
    """Few different hashes with few bits changed, so that there are many near ones; none twice."""
    centres = generator.integers(0, 2**64, 40, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in generator.choice(64, generator.integers(0, 9), False)) for _ in range(count)]
    hashes = [int(centres[index % 40]) ^ flip for index, flip in enumerate(flips)]
    return np.array(list(dict.fromkeys(hashes)), np.uint64)


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Bits in which hashes differ."""
    return np.unpackbits((one ^ other).reshape(-1, 1).view(np.uint8), axis=1).sum(axis=1)


@pytest.mark.parametrize("distance", [0, 1, 3, 4, 7, 10])
def test_all_near_pairs_are_found_and_no_others(distance: int) -> None:
    hashes = crowded(np.random.default_rng(distance), 600)
    later, earlier = np.tril_indices(len(hashes), -1)
    bits = apart(hashes[later], hashes[earlier])
    wanted = [(int(i), int(j), int(n)) for i, j, n in zip(later, earlier, bits) if n <= distance]
    assert list(near_pairs(hashes, distance)) == sorted(wanted)
    assert len(wanted) > 100 or distance < 4


def test_many_hashes_with_a_word_in_common_are_compared_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = crowded(np.random.default_rng(0), 600)
    whole = list(near_pairs(hashes, 4))
    monkeypatch.setattr(module, "_MOST", 50)
    assert list(near_pairs(hashes, 4)) == whole


def test_the_largest_are_kept_one_after_another() -> None:
    generator = np.random.default_rng(0)
    hashes = generator.permutation(np.tile(crowded(generator, 300), 2))
    count = len(hashes)
    digests = generator.integers(0, 3, count).astype(np.uint64) + np.uint64(10) * hashes
    areas, sizes = generator.integers(1, 20, count), generator.integers(1, 4, count)
    hashed = generator.random(count) < 0.9
    digests[~hashed] = generator.integers(0, 9, int((~hashed).sum()))
    found = verdicts(digests, hashes, hashed, areas, sizes, 4)
    kept: list[int] = []
    settled: dict[int, tuple[int, int]] = {}
    for place in sorted(range(count), key=lambda place: (-areas[place], -sizes[place])):
        rivals = np.array([other for other in kept if hashed[other] == hashed[place]], int)
        if hashed[place]:
            distances = apart(hashes[rivals], hashes[np.full(len(rivals), place)]) if len(rivals) else rivals
        else:
            distances = np.where(digests[rivals] == digests[place], 0, 99)
        looks = int(hashes[place]) if hashed[place] else -int(digests[place]) - 1
        if looks not in settled:
            near = len(rivals) > 0 and distances.min() <= 4
            settled[looks] = (int(rivals[distances.argmin()]), int(distances.min())) if near else (place, 0)
        keeper, distance = settled[looks]
        assert found[place].tolist() == (keeper, distance, keeper != place and digests[keeper] == digests[place])
        kept += [place] if keeper == place else []
    assert len(kept) < count / 2


def test_nothing_is_no_trouble() -> None:
    assert not list(near_pairs(np.empty(0, np.uint64), 4))
    assert DigestTable().find(0) is None
    nothing = np.empty(0, np.uint64)
    none = np.empty(0, np.int64)
    assert not len(verdicts(nothing, nothing, np.empty(0, bool), none, none, 4))


def test_digests_are_found_among_many_and_among_the_latest() -> None:
    table = DigestTable()
    digests = np.random.default_rng(0).integers(0, 2**64, RECENT + 100, dtype=np.uint64).tolist()
    for owner, digest in enumerate(digests):
        table.add(digest, owner)
    assert [table.find(digest) for digest in digests] == list(range(len(digests)))
    assert table.find(digests[0] ^ 1) is None


def bits(first: np.ndarray, second: np.ndarray) -> int:
    one, other = perceptual_hash(first), perceptual_hash(second)
    assert one is not None
    assert other is not None
    return bin(one ^ other).count("1")


def test_a_copy_of_other_quality_or_size_has_nearly_the_same_hash() -> None:
    for seed in range(20):
        pixels = picture(seed, 240, 180)
        again = decode(encoded(pixels, quality=40))
        smaller = np.asarray(Image.fromarray(pixels).resize((150, 112), Image.Resampling.LANCZOS))
        assert bits(pixels, again) <= 4
        assert bits(pixels, smaller) <= 4


def test_other_pictures_have_other_hashes() -> None:
    pixels = [picture(seed) for seed in range(40)]
    hashes = [perceptual_hash(image) or 0 for image in pixels]
    distances = [bin(one ^ other).count("1") for number, one in enumerate(hashes) for other in hashes[:number]]
    assert min(distances) > 10
    assert np.mean(distances) == pytest.approx(32, abs=1)


def test_half_of_the_bits_are_set() -> None:
    hash = perceptual_hash(picture(0))
    assert hash is not None
    assert bin(hash).count("1") == 32


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2)])
def test_flat_pictures_have_no_hash(size: tuple[int, int]) -> None:
    assert perceptual_hash(np.full((*size, 3), 200, np.uint8)) is None
