"""Too much, too slow, too many: a server under strangers."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from image_files import color, png_header
from pydantic import ValidationError
from running_server import Running, Start

from dinotrain.serving.limits import ServerLimits
from dinotrain.serving.schemas import EmbedRequest, PicturesRequest, ScoreRequest

TEXT = base64.b64encode(color(200, 30, 30)).decode()
BODY = json.dumps({"input_data": [TEXT]}).encode()
HEAD = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and body of what comes back; (0, {}) if the connection is closed without."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return 0, {}
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return int(head.split()[1]), json.loads(body)


def test_more_images_than_a_request_may_have(usual: Running) -> None:
    answer = usual.post("/score", *[TEXT] * 1000)
    assert answer.status_code == 413
    assert answer.json() == {"error": "input_data: 1000 images, more than 64, the most of a request"}


def test_images_that_are_too_large(usual: Running) -> None:
    bomb = base64.b64encode(png_header(20_000, 20_000)).decode()
    answer = usual.post("/score", bomb)
    assert answer.status_code == 413
    assert "more than 4 megapixels" in answer.json()["error"]
    assert usual.post("/score", base64.b64encode(bytes(1_100_000)).decode()).status_code == 413
    assert usual.post("/score", bomb, TEXT).status_code == 200


@pytest.mark.parametrize("said", [True, False])
def test_bodies_that_are_too_large(start: Start, said: bool) -> None:
    running = start(limits={"request_mb": 0.1})
    large = b'{"input_data": ["' + b"A" * 3_000_000 + b'"]}'

    def pieces() -> Iterator[bytes]:
        yield from (large[at : at + 10_000] for at in range(0, len(large), 10_000))

    answer = running.client.post("/score", content=large if said else pieces())
    assert answer.status_code == 413
    assert answer.json() == {"error": "the request has more than 0.1 MB"}
    assert running.post("/score", TEXT).status_code == 200


def test_a_length_that_is_not_true_is_not_believed(start: Start) -> None:
    running = start(limits={"body_seconds": 0.3, "head_seconds": 0.5})
    with running.raw() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n" + BODY)
        assert answer_of(connection) == (408, {"error": "the request was not there within 0.3 s"})
        # What goes on sending after its answer is not listened to for ever.
        assert connection.recv(1) == b""


def test_a_body_that_drips(start: Start) -> None:
    running = start(limits={"body_seconds": 0.4})
    with running.raw() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        began = time.monotonic()
        connection.settimeout(0.05)
        while True:
            connection.sendall(b" ")
            try:
                connection.recv(1, socket.MSG_PEEK)
                break
            except TimeoutError:
                assert time.monotonic() - began < 60
        connection.settimeout(60)
        assert answer_of(connection)[0] == 408


@pytest.mark.parametrize("first", [b"", b"POST /score HT", HEAD])
def test_a_head_that_drips(start: Start, first: bytes) -> None:
    running = start(limits={"head_seconds": 0.4})
    with running.raw() as connection:
        connection.sendall(first)
        connection.settimeout(0.1)
        began = time.monotonic()
        while time.monotonic() - began < 60:
            try:
                if first:
                    connection.sendall(b"x")
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert time.monotonic() - began < 50
    assert running.post("/score", TEXT).status_code == 200


def test_too_many_connections_are_closed(start: Start) -> None:
    running = start(limits={"connections": 3})
    running.client.close()
    held = [running.raw() for _ in range(3)]
    time.sleep(0.2)
    with running.raw() as connection:
        connection.settimeout(60)
        try:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1) == b""
        except ConnectionError:
            pass
    for each in held:
        each.close()
    time.sleep(0.2)
    assert httpx.get(f"{running.url}/health").status_code == 200
    running.client = httpx.Client(base_url=running.url)


def test_a_full_queue_is_told(start: Start) -> None:
    running = start(limits={"queue": 4, "images": 4}, max_batch=1)
    running.model.free.clear()
    waiting = [running.later(TEXT, TEXT), running.later(TEXT)]
    running.until("dinotrain_queue_images", 3)
    answer = running.post("/score", TEXT, TEXT)
    assert answer.status_code == 429
    assert answer.json() == {"error": "too many images are waiting; try again later"}
    assert int(answer.headers["Retry-After"]) >= 1
    assert running.client.get("/health").status_code == 200
    waiting.append(running.later(TEXT))
    running.until("dinotrain_queue_images", 4)
    running.model.free.set()
    assert [later().status_code for later in waiting] == [200, 200, 200]
    assert running.post("/score", TEXT, TEXT).status_code == 200


def test_too_many_requests_are_told_before_they_are_read(start: Start) -> None:
    running = start(limits={"requests": 1})
    running.model.free.clear()
    first = running.later(TEXT)
    running.until("dinotrain_queue_images", 1)
    answer = running.post("/score", TEXT)
    assert answer.status_code == 429
    assert answer.json() == {"error": "too many requests at the same time; try again later"}
    running.model.free.set()
    assert first().status_code == 200


def test_bodies_do_not_fill_the_memory(start: Start) -> None:
    running = start(limits={"request_mb": 1.0, "bodies_mb": 1.5})
    with running.raw() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(900_000))
        end = time.monotonic() + 60
        while running.guard._bytes.taken < 900_000 and time.monotonic() < end:
            time.sleep(0.01)
        assert running.post("/score", "A" * 800_000).status_code == 429
        assert running.post("/score", TEXT).status_code == 200
    # What the other held is free again when it has gone.
    running.until('dinotrain_requests_total{path="/score",status="499"}', 1)
    assert running.post("/score", "A" * 800_000).status_code == 422


def test_answers_that_take_too_long(start: Start) -> None:
    running = start(limits={"answer_seconds": 0.3})
    running.model.free.clear()
    answer = running.post("/score", TEXT)
    assert answer.status_code == 504
    assert answer.json() == {"error": "no answer within 0.3 s"}
    running.model.free.set()
    assert running.post("/score", TEXT).status_code == 200
    assert running.metric("dinotrain_queue_images") == 0


def test_who_leaves_frees_the_place(start: Start) -> None:
    running = start(limits={"queue": 2, "images": 2}, max_batch=1)
    running.model.free.clear()
    with running.raw() as connection:
        body = json.dumps({"input_data": [TEXT, TEXT]}).encode()
        connection.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        running.until("dinotrain_queue_images", 2)
        assert running.post("/score", TEXT).status_code == 429
    running.until("dinotrain_queue_images", 0)
    running.model.free.set()
    assert running.post("/score", TEXT).status_code == 200
    assert any(" 499 2 images" in line for line in running.lines)


def test_requests_of_many_are_answered_together(start: Start) -> None:
    running = start(max_batch=8)
    running.model.free.clear()
    waiting = [running.later(TEXT) for _ in range(9)]
    running.until("dinotrain_queue_images", 9)
    running.model.free.set()
    assert [later().status_code for later in waiting] == [200] * 9
    assert running.metric("dinotrain_batch_images_count") < 9
    assert running.metric("dinotrain_batch_images_sum") == 9


def test_the_end_answers_what_has_begun(start: Start) -> None:
    running = start()
    running.model.free.clear()
    waiting = [running.later(TEXT) for _ in range(3)]
    running.until("dinotrain_queue_images", 3)
    running.server.should_exit = True
    time.sleep(0.3)
    running.model.free.set()
    assert [later().status_code for later in waiting] == [200] * 3
    running.thread.join(60)
    assert not running.thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/health")


def test_the_end_does_not_wait_for_ever(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    running = start(limits={"stop_seconds": 0.5})
    running.model.free.clear()
    later = running.later(TEXT)
    running.until("dinotrain_queue_images", 1)
    with running.raw() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        while len(running.server.server_state.tasks) < 2:
            time.sleep(0.01)
        running.server.should_exit = True
        assert answer_of(connection) == (503, {"error": "the server is about to end"})
    answer = later()
    assert answer.status_code == 503
    assert answer.json() == {"error": "the server is about to end"}
    running.model.free.set()
    running.thread.join(60)
    assert not running.thread.is_alive()


@pytest.mark.parametrize(
    "wrong", [{"images": 0}, {"queue": 10}, {"bodies_mb": 1}, {"body_seconds": 0}, {"requests": 1.5}]
)
def test_limits_have_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: got"):
        ServerLimits(**wrong)


def test_a_million_mistakes_are_told_as_one(usual: Running) -> None:
    bodies = {
        "/score": b'{"input_data": [' + b"1," * 1_000_000 + b"1]}",
        "/pictures": b'{"input_data": [' + b"1," * 1_000_000 + b"1]}",
        "/embed": b'{"input_data": ["x"], "params": {"parts": [' + b"1," * 1_000_000 + b"1]}}",
    }
    for path, body in bodies.items():
        answer = usual.client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        assert answer.json()["error"].startswith(("input_data.0: expected", "params.parts.0: expected"))


def test_all_mistakes_of_a_kind_are_not_written_down() -> None:
    unknown = {f"key{number}": number for number in range(1000)}
    for model, given in (
        (ScoreRequest, {"input_data": ["x"], **unknown}),
        (ScoreRequest, {"input_data": ["x"], "params": unknown}),
        (EmbedRequest, {"input_data": ["x"], "params": {"parts": [1] * 1000}}),
        (PicturesRequest, {"input_data": [1] * 1000}),
    ):
        with pytest.raises(ValidationError) as caught:
            model.model_validate(given)
        assert caught.value.error_count() == 1


def test_who_sends_slowly_takes_no_place(start: Start) -> None:
    running = start(limits={"requests": 1})
    with running.raw() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        while not running.server.server_state.tasks:
            time.sleep(0.01)
        assert running.post("/score", TEXT).status_code == 200


@pytest.mark.parametrize("times", [1, 2000])
def test_who_does_not_read_is_left(start: Start, times: int) -> None:
    running = start(limits={"head_seconds": 0.3, "body_seconds": 0.3})
    with running.raw() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.5)
        with contextlib.suppress(OSError):  # it is left before all is sent
            connection.sendall(b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n" * times)
        end = time.monotonic() + 60
        while running.server.server_state.connections:
            assert time.monotonic() < end
            time.sleep(0.02)
