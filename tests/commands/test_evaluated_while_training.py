"""Further tasks on the labelled images while a network trains."""

from __future__ import annotations

from pathlib import Path

from real_runs import SHORT, SMALL, make_images, refused, rows, run_here

WORDS = ("+experiment=quickstart", *SHORT, *SMALL)
MANY = ("data.source.length=120", "evaluation.max_train=100")
LIGHT = ("tasks.linear.steps=4", "tasks.linear.batch=8", "tasks.clusters.restarts=1")


def test_named_tasks_are_in_the_metrics(tmp_path: Path) -> None:
    run_here(
        *WORDS, *LIGHT, *MANY, "evaluation.every=3", "evaluation.tasks=[knn,linear,clusters]", f"output_dir={tmp_path}"
    )
    evaluated = [row for row in rows(tmp_path) if row.get("evaluated") and row["step"]]
    assert [row["step"] for row in evaluated] == [3, 6]
    for row in evaluated:
        assert 0 <= row["linear_top1"] <= 100
        assert 0 <= row["clusters_accuracy"] <= 100
        assert 0 <= row["knn_top1"] <= 100


def test_knn_may_be_left_out(tmp_path: Path) -> None:
    run_here(*WORDS, "evaluation.tasks=[retrieval]", f"output_dir={tmp_path}")
    (row,) = [row for row in rows(tmp_path) if row.get("evaluated")]
    assert "retrieval_map" in row
    assert "knn_top1" not in row


def test_tasks_that_need_other_images_are_for_the_watch(tmp_path: Path) -> None:
    line = refused(*WORDS, "evaluation.tasks=[segmentation]", f"output_dir={tmp_path}")
    assert "evaluation.tasks: got 'segmentation'" in line
    assert "dinotrain.evaluate watch" in line


def test_tasks_need_labels(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images", 12)
    words = [word for word in WORDS if not word.startswith("data.source")]
    line = refused(*words, "data=folder", f"data.root={root}", "evaluation.tasks=[linear]", f"output_dir={tmp_path}/r")
    assert "evaluation.tasks: linear, but the images have no labels" in line
