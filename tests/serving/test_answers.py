"""What a server says of images."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from file_server import FileServer
from image_files import animated, broken, color
from PIL import Image
from running_server import Running, Start
from small_classifier import CLASSES

from dinotrain.data.images import decode
from dinotrain.intake.fetch import Fetcher

FILES = [color(200, 30, 30), color(20, 180, 90), color(10, 20, 220)]
TEXTS = [base64.b64encode(data).decode() for data in FILES]
WRONG = base64.b64encode(broken()["cut jpeg"]).decode()


def prepared(running: Running, data: bytes) -> torch.Tensor:
    return running.model.preparation.pixels(decode(data))[None]


def probabilities(running: Running, data: bytes) -> list[float]:
    return running.model.probabilities(prepared(running, data))[0].tolist()


def test_classes_in_both_forms(usual: Running) -> None:
    answer = usual.post("/score", *TEXTS)
    assert answer.status_code == 200
    for entry, data in zip(answer.json(), FILES, strict=True):
        assert entry["labels"] == list(CLASSES)
        assert entry["probs"] == pytest.approx(probabilities(usual, data), abs=1e-5)
    ranked = usual.post("/score", f"data:image/png;base64,{TEXTS[0]}", form="ranked", top=2).json()[0]
    best = sorted(zip(probabilities(usual, FILES[0]), CLASSES), reverse=True)[:2]
    assert [each["label"] for each in ranked] == [label for _, label in best]
    assert [each["score"] for each in ranked] == pytest.approx([score for score, _ in best], abs=1e-5)


def test_one_bad_image_does_not_disturb_the_others(usual: Running) -> None:
    answer = usual.post("/score", TEXTS[0], WRONG, "%%", TEXTS[1])
    assert answer.status_code == 200
    entries = answer.json()
    assert [set(entry) for entry in entries] == [{"probs", "labels"}, {"error"}, {"error"}, {"probs", "labels"}]
    assert entries[1] == {"error": "a damaged image, or one that is cut short"}
    assert usual.post("/embed", TEXTS[0], WRONG).json()[1] == entries[1]


@pytest.mark.parametrize("name", broken())
@pytest.mark.parametrize("path", ["/score", "/embed", "/pictures"])
def test_a_bad_image_alone_is_a_mistake(usual: Running, path: str, name: str) -> None:
    answer = usual.post(path, base64.b64encode(broken()[name]).decode())
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]


def test_none_of_several_images(usual: Running) -> None:
    answer = usual.post("/score", WRONG, WRONG)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("none of the images can be read; the first: a damaged image")


def test_embeddings(usual: Running) -> None:
    entry = usual.post("/embed", TEXTS[2]).json()[0]
    own = usual.model.embeddings(prepared(usual, FILES[2]), ["cls_1", "patch_1"])[0]
    assert entry["cls"] == pytest.approx(own[0].tolist(), abs=2e-5)
    assert entry["patch_mean"] == pytest.approx(own[1].tolist(), abs=2e-5)
    assert list(usual.post("/embed", TEXTS[2], parts=["patch_mean"]).json()[0]) == ["patch_mean"]


def picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_pictures(usual: Running) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    out = io.BytesIO()
    noise.save(out, "PNG")
    (entry,) = usual.post("/pictures", base64.b64encode(out.getvalue()).decode()).json()
    assert picture(entry["image"]).shape == (32, 32, 3)
    assert picture(entry["pca"]).shape == (8, 8, 3)
    heads = [picture(head) for head in entry["attention"]["heads"]]
    assert [head.shape for head in heads] == [(8, 8), (8, 8)]
    assert all((head.min(), head.max()) == (0, 255) for head in heads)
    assert picture(entry["attention"]["mean"]).shape == (8, 8)
    assert usual.post("/pictures", *TEXTS).status_code == 422


def test_of_an_animation_the_first_frame_is_taken_and_that_is_said(usual: Running) -> None:
    answer = usual.post("/score", TEXTS[0], base64.b64encode(animated()).decode())
    assert answer.headers["X-Image-Notes"] == "1: it has several frames; the first is taken"


def test_several_labels_have_thresholds(start: Start) -> None:
    running = start(labels="multi", thresholds=(0.0, 1.0, 0.0, 1.0))
    assert running.post("/score", TEXTS[0]).json()[0]["labels"] == [CLASSES[0], CLASSES[2]]
    every = running.post("/score", TEXTS[0], threshold=0).json()[0]
    assert every["labels"] == list(CLASSES)
    assert every["probs"] == pytest.approx(probabilities(running, FILES[0]), abs=1e-5)
    assert running.post("/score", TEXTS[0], threshold=1, form="ranked").json() == [[]]


def test_thresholds_are_not_for_classes_that_exclude_each_other(usual: Running) -> None:
    answer = usual.post("/score", TEXTS[0], threshold=0.2)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("params.threshold: the classes of this model exclude each other")


def test_urls_where_they_are_allowed(start: Start) -> None:
    running = start(fetcher=Fetcher(private=True))
    with FileServer({"/a.png": FILES[0]}) as files:
        entries = running.post("/score", f"{files.url}/a.png", f"{files.url}/b.png", TEXTS[1]).json()
    assert entries[0]["probs"] == pytest.approx(probabilities(running, FILES[0]), abs=1e-5)
    assert entries[1] == {"error": "its URL: the host answered 404"}
    assert "probs" in entries[2]


def test_urls_of_private_addresses(start: Start) -> None:
    running = start(fetcher=Fetcher())
    with FileServer({"/a.png": FILES[0]}) as files:
        answer = running.post("/score", f"{files.url}/a.png")
        assert not files.requests
    assert answer.status_code == 422
    assert answer.json() == {"error": "its URL: the address of its host is not one of the public internet"}


def test_a_model_that_fails_leaks_nothing_and_goes_on(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    running = start()
    answer = running.post("/score", base64.b64encode(color(0, 0, 0)).decode())
    assert answer.status_code == 500
    assert answer.json() == {"error": "the model failed at this"}
    assert "CUDA error" in capfd.readouterr().err
    assert running.post("/score", TEXTS[0]).status_code == 200


def test_requests_are_logged_on_a_line_and_counted(start: Start) -> None:
    running = start()
    running.post("/score", TEXTS[0], WRONG)
    running.post("/nowhere\u2028else%0aPOST", TEXTS[0])
    # A request is over a moment after its answer is there.
    running.until('dinotrain_requests_total{path="other",status="404"}', 1)
    lines = running.lines
    assert lines[0].startswith("127.0.0.1 POST /score 200 2 images ")
    assert lines[1].startswith(r"127.0.0.1 POST /nowhere\u2028else\nPOST 404 ")
    assert running.metric('dinotrain_requests_total{path="/score",status="200"}') == 1
    assert running.metric('dinotrain_requests_total{path="other",status="404"}') == 1
    assert running.metric('dinotrain_images_total{outcome="broken"}') == 1
    assert running.metric("dinotrain_batch_images_sum") == 1
    assert running.metric('dinotrain_request_seconds_count{path="/score"}') == 1
    assert running.metric("dinotrain_queue_images") == 0


def test_a_model_that_fails_again_and_again_is_told(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    running = start()
    black = base64.b64encode(color(0, 0, 0)).decode()
    assert [running.post("/score", black).status_code for _ in range(2)] == [500, 500]
    assert running.client.get("/health").status_code == 200
    assert running.post("/score", black).status_code == 500
    health = running.client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "failing")
    assert running.post("/score", TEXTS[0]).status_code == 200
    assert running.client.get("/health").json()["status"] == "ready"
    assert "CUDA error" in capfd.readouterr().err


def test_images_of_a_request_that_failed_are_not_asked_about(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    running = start(max_batch=1)
    black = base64.b64encode(color(0, 0, 0)).decode()
    assert running.post("/score", black, *TEXTS * 20).status_code == 500
    assert running.post("/score", TEXTS[0]).status_code == 200
    assert running.metric("dinotrain_queue_images") == 0
    assert "CUDA error" in capfd.readouterr().err
