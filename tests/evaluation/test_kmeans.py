from __future__ import annotations

import numpy as np
import pytest
import torch

from dinotrain.distributed.world import World
from dinotrain.evaluation.cluster_scores import agreement
from dinotrain.evaluation.kmeans import kmeans


def world() -> World:
    return World(0, 1, 0, 1, torch.device("cpu"), None)


def blobs(count: int, k: int, dim: int = 8, spread: float = 0.3, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % k
    points = random.standard_normal((k, dim))[labels] + spread * random.standard_normal((count, dim))
    return torch.from_numpy(points).float(), labels


@pytest.mark.parametrize(("k", "spread"), [(5, 0.2), (8, 1.0)])
def test_it_is_as_good_as_scikit_learn(k: int, spread: float) -> None:
    from sklearn.cluster import KMeans

    points, labels = blobs(600, k, spread=spread)
    found = kmeans(points, k, world=world(), restarts=10, iterations=300)
    reference = KMeans(k, n_init=10, random_state=0).fit(points.numpy())  # pyright: ignore[reportArgumentType]
    assert reference.inertia_ is not None
    assert found.inertia <= 1.01 * reference.inertia_
    # What it says is what it found.
    distances = (points - found.centers[found.labels]).square().sum()
    assert found.inertia == pytest.approx(float(distances), rel=1e-4)
    assert torch.equal(torch.cdist(points, found.centers).argmin(dim=1), found.labels)
    if spread < 0.5:
        assert agreement(found.labels.numpy(), labels, k=k, classes=k).accuracy > 99


def test_more_restarts_are_never_worse() -> None:
    points, _ = blobs(300, 12, spread=0.8)
    inertia = [kmeans(points, 12, world=world(), restarts=count).inertia for count in (1, 3, 8)]
    assert inertia == sorted(inertia, reverse=True)


def test_a_centre_for_every_point_leaves_no_inertia() -> None:
    points, _ = blobs(20, 4)
    found = kmeans(points, 20, world=world())
    assert found.inertia == pytest.approx(0, abs=1e-4)
    assert len(found.labels.unique()) == 20


def test_equal_points_do_no_harm() -> None:
    found = kmeans(torch.ones(30, 3), 4, world=world())
    assert found.inertia == pytest.approx(0, abs=1e-4)
    assert found.centers.isfinite().all()


def test_agreement_by_hand() -> None:
    clusters, labels = np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([1, 1, 0, 0, 0, 1, 1, 1])
    found = agreement(clusters, labels, k=3, classes=2)
    # Cluster 2 is class 1 (3 images), cluster 1 class 0 (2); cluster 0 is left without.
    assert found.meaning.tolist() == [-1, 0, 1]
    assert found.accuracy == pytest.approx(100 * 5 / 8)
    joint = np.array([[1, 2], [2, 0], [0, 3]]) / 8
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    mutual = sum(
        joint[i, j] * np.log(joint[i, j] / rows[i] / columns[j]) for i in range(3) for j in range(2) if joint[i, j]
    )
    mean_entropy = -(np.sum(rows * np.log(rows)) + np.sum(columns * np.log(columns))) / 2
    assert found.nmi == pytest.approx(100 * mutual / mean_entropy)


def test_renamed_clusters_agree_fully() -> None:
    labels = np.arange(40) % 4
    found = agreement(np.array([2, 0, 3, 1])[labels], labels, k=4, classes=4)
    assert (found.accuracy, found.nmi, found.ari) == pytest.approx((100, 100, 100))
    assert found.meaning.tolist() == [1, 3, 0, 2]


def test_it_checks_in_every_iteration() -> None:
    points, _ = blobs(60, 3)
    ticks: list[int] = []
    kmeans(points, 3, world=world(), restarts=2, iterations=7, check=lambda: ticks.append(1))
    # Far apart, clusters are found in fewer: other processes may need them all.
    assert len(ticks) == 2 * (1 + 7)


def test_a_process_without_a_start_checks_too() -> None:
    points, _ = blobs(60, 3)
    ticks: list[int] = []
    process = World(1, 2, 1, 2, torch.device("cpu"), None)
    # Alone, there is nothing to gather from the other one.
    with pytest.raises(ValueError, match="empty"):
        kmeans(points, 3, world=process, restarts=1, iterations=7, check=lambda: ticks.append(1))
    assert len(ticks) == 8
