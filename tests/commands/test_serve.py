"""The server as a process of its own, asked by a real client."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from image_files import broken, color, encoded, png_header
from PIL import Image
from real_runs import environment
from small_classifier import CLASSES, write_small_classifier

from dinotrain.serve import main

TEXT = base64.b64encode(color(200, 30, 30)).decode()


class Served:
    """A server in a process of its own."""

    def __init__(self, model: Path, *words: str) -> None:
        self.output = model.parent / "output.txt"
        command = [sys.executable, "-m", "dinotrain.serve", f"model={model}", "port=0", "device=cpu", *words]
        with self.output.open("wb") as file:
            # A pipe that nobody reads would fill up.
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, env=environment(), text=True)
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline()
        assert self.first.startswith("serving "), self.output.read_text()
        self.url = self.first.split(" at ")[1].split(",")[0]
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def post(self, *images: str, path: str = "/score") -> httpx.Response:
        return self.client.post(path, json={"input_data": list(images)})

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit status, what was logged, and what was complained of."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=120)
        self.client.close()
        return self.process.returncode, out, self.output.read_text()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_classifier(tmp_path_factory.mktemp("secret_place") / "flowers")


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[Served]:
    """One for all tests of this module; that it ends in order is one of them."""
    running = Served(model)
    yield running
    status, out, err = running.end()
    assert status == 0
    assert out.endswith("stopped\n")
    assert err == ""


def test_it_says_where_it_is_and_what(served: Served, model: Path) -> None:
    assert served.first.startswith("serving flowers (4 classes, 16 px) at http://127.0.0.1:")
    assert served.client.get("/health").json() == {
        "status": "ready",
        "model": "flowers",
        "classes": 4,
        "dim": 16,
        "size": 16,
    }
    assert served.post(TEXT).json()[0]["labels"] == list(CLASSES)


def bad_bodies() -> dict[str, tuple[bytes, int]]:
    """With the status of the answer."""

    def body(*images: str, **more: Any) -> bytes:
        return json.dumps({"input_data": list(images), **more}).encode()

    images = {f"image: {name}": (body(base64.b64encode(data).decode()), 422) for name, data in broken().items()}
    return images | {
        "wrong json": (b'{"input_data": [', 400),
        "no json": (b"\xff\xfe\x00", 400),
        "deep json": (b'{"input_data":' + b"[" * 100_000, 400),
        "deep json that ends": (b'{"input_data":' + b"[" * 500 + b"]" * 500 + b"}", 422),
        "large number": (b'{"input_data": ' + b"9" * 10_000 + b"}", 400),
        "empty": (b"", 422),
        "null": (b"null", 422),
        "a list": (b"[]", 422),
        "no images": (body(), 422),
        "other key": (b'{"images": []}', 422),
        "further key": (body(TEXT, parms={}), 422),
        "images that are numbers": (b'{"input_data": [1, 2]}', 422),
        "one text": (json.dumps({"input_data": TEXT}).encode(), 422),
        "wrong base64": (body("%%%"), 422),
        "half a character": (b'{"input_data": ["\\ud83d"]}', 422),
        "zeros": (body("\0\0\0\0"), 422),
        "url": (body("http://127.0.0.1/x.png"), 422),
        "file": (body("file:///etc/passwd"), 422),
        "path": (body("/etc/passwd"), 422),
        "bomb": (body(base64.b64encode(png_header(20_000, 20_000)).decode()), 413),
        "large": (body(base64.b64encode(bytes(21_000_000)).decode()), 413),
        "thousand": (body(*[TEXT] * 1000), 413),
        "wrong form": (body(TEXT, params={"form": "all"}), 422),
        "wrong top": (body(TEXT, params={"top": -1}), 422),
        "no threshold": (b'{"input_data": ["' + TEXT.encode() + b'"], "params": {"threshold": NaN}}', 422),
    }


@pytest.mark.parametrize("name", bad_bodies())
def test_every_bad_body_has_one_clear_line(served: Served, model: Path, name: str) -> None:
    body, status = bad_bodies()[name]
    answer = served.client.post("/score", content=body, headers={"Content-Type": "application/json"})
    found = answer.json()
    assert answer.status_code == status, found
    assert list(found) == ["error"]
    assert 5 < len(found["error"]) < 200
    assert "\n" not in found["error"]
    for leak in (str(model), "site-packages", "Traceback", ".py", "PIL", "pydantic", "0x"):
        assert leak not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/score/", 404),
        ("GET", "/score", 405),
        ("DELETE", "/", 405),
        ("POST", "/health", 405),
        ("PUT", "/score", 405),
    ],
)
def test_wrong_addresses(served: Served, method: str, path: str, status: int) -> None:
    answer = served.client.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_what_is_no_http_is_refused(served: Served) -> None:
    port = httpx.URL(served.url).port
    for rubbish in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n", b"a" * 100_000):
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(rubbish)
            answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.endswith(b'{"error": "no valid HTTP request"}')


def _mutated(data: bytes, generator: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.randrange(1, 8)):
        at = generator.randrange(len(changed))
        way = generator.randrange(4)
        if way == 0:
            changed[at] = generator.randrange(256)
        elif way == 1:
            del changed[at : at + generator.randrange(1, 40)]
        elif way == 2:
            changed[at:at] = generator.randbytes(generator.randrange(1, 20))
        else:
            changed[at : at + 1] = generator.choice([b'"', b"{", b"}", b"[", b"]", b",", b"null", b"\\u0000", b"1e999"])
        changed = changed or bytearray(b" ")
    return bytes(changed)


def test_random_and_mutated_requests_never_make_it_fail(served: Served) -> None:
    generator = random.Random(0)
    small = Image.fromarray(np.zeros((6, 7, 3), np.uint8) + 90)
    files = [encoded(small, name) for name in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")]
    statuses = set()
    for turn in range(400):
        data = files[turn % len(files)]
        if turn % 2:
            data = _mutated(data, generator)
        body: dict[str, Any] = {"input_data": [base64.b64encode(data).decode()]}
        if turn % 3 == 0:
            body["params"] = {"form": "ranked", "top": 2} if turn % 4 else {"parts": ["cls"]}
        text = json.dumps(body).encode()
        if turn % 5 == 0:
            text = _mutated(text, generator)
        path = generator.choice(["/score", "/embed", "/pictures"])
        answer = served.client.post(path, content=text, headers={"Content-Type": "application/json"})
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (path, text, answer.text)
        assert isinstance(answer.json(), list) == (answer.status_code == 200)
    assert {200, 422} <= statuses
    assert served.post(TEXT).status_code == 200


def test_openapi_names_all_addresses(served: Served) -> None:
    found = served.client.get("/openapi.json").json()
    assert {"/score", "/embed", "/pictures", "/health", "/metrics"} == set(found["paths"])
    assert {"200", "413", "422", "429", "504"} <= set(found["paths"]["/score"]["post"]["responses"])


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(served: Served, path: str) -> None:
    page = served.client.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http://127.0.0.1:8000", "")
    assert "flowers" in page.text


def test_the_page_shows_classes_and_pictures_in_a_browser(served: Served, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    shot = tmp_path / "page.png"
    # With the pages of one process the picture is complete once the document says so.
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--virtual-time-budget=20000", "--window-size=1000,1100"]
    page = f"{served.url}/#example"
    found = ""
    for _ in range(5):  # on a busy machine the browser's own clock may run out before the answer comes
        found = subprocess.run([*words, "--dump-dom", page], capture_output=True, text=True, timeout=300).stdout
        if found.count('alt="Attention, ') == 3:
            break
    assert found.count("<progress") == len(CLASSES)
    assert found.count('alt="Attention, ') == 3
    assert "Most likely: " in found
    subprocess.run([*words, f"--screenshot={shot}", page], capture_output=True, timeout=300, check=True)
    with Image.open(shot) as image:
        assert image.size == (1000, 1100)
        # Pictures and bars, not a bare page.
        assert len(image.convert("RGB").getcolors(2**24) or ()) > 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_that_have_begun_be_answered(model: Path, number: signal.Signals) -> None:
    running = Served(model)
    body = json.dumps({"input_data": [TEXT]}).encode()
    address = ("127.0.0.1", httpx.URL(running.url).port)
    with socket.create_connection(address, 60) as connection, socket.create_connection(address, 60) as idle:
        head = (
            f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body[:20])
        # The server has begun with it once it has answered another that came later.
        assert running.post(TEXT).status_code == 200
        running.process.send_signal(number)
        assert idle.recv(1) == b""
        connection.sendall(body[20:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    out, _ = running.process.communicate(timeout=120)
    running.client.close()
    assert running.process.returncode == 0
    assert out.splitlines()[-1] == "stopped"
    assert running.output.read_text() == ""


def test_threads_that_are_still_at_work_do_not_hold_up_the_end() -> None:
    program = (
        "import threading, time; from dinotrain.serve import _leave\n"
        "threading.Thread(target=time.sleep, args=(10_000,)).start(); print('stopped'); _leave(3)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "stopped\n", "")


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "model is missing: a classifier or any weights"),
        (["model={model}", "image.png"], "image.png: expected key=value"),
        (["model={model}", "--port=3"], "--port=3: no such option"),
        (["model={model}", "prot=3"], "prot: no such key; did you mean port?"),
        (["model={model}", "port=70000"], "port: got 70000"),
        (["model={model}", "max_batch=0"], "max_batch: got 0"),
        (["model={model}", "size=32", "port=0"], "size: got 32, expected none: a classifier has its own"),
        (["model={model}", "limits.images=0"], "limits.images: got 0"),
        (["model={model}", "limits.imagse=3"], "limits.imagse: no such key; did you mean limits.images?"),
        (["model={model}", "image_limits.max_mb=0"], "image_limits.max_mb: got 0"),
        (["model={model}", "urls.allow=perhaps"], "urls.allow: got 'perhaps'"),
        (["model={model}", "urls.seconds=0"], "urls.seconds: got 0"),
        (["model={model}", "urls.private=true"], "urls.private: no such key"),
        (["model={model}", "host=no.such.host.invalid"], "host: got 'no.such.host.invalid'"),
        (["model=/nowhere", "port=0"], "model: /nowhere"),
    ],
)
def test_mistakes_are_one_line(words: list[str], line: str, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert refused(capfd, *(word.format(model=model) for word in words or ["port=0"])).startswith(f"error: {line}")


def test_a_port_in_use_is_told(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        err = refused(capfd, f"model={model}", f"port={port}")
    assert err == f"error: port: {port} of 127.0.0.1: address already in use; expected a free one, or 0 for any\n"


def test_a_missing_package_is_told(
    model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'dinotrain[serve]'" in refused(capfd, f"model={model}")


def test_backbones_are_served_without_classes(teacher: Path) -> None:
    running = Served(teacher, "size=24")
    health = running.client.get("/health").json()
    assert (health["classes"], health["size"], health["dim"]) == (0, 24, 64)
    assert running.post(TEXT).status_code == 404
    assert len(running.post(TEXT, path="/embed").json()[0]["cls"]) == 64
    assert "pca" in running.post(TEXT, path="/pictures").json()[0]
    assert running.end()[0] == 0


def test_help_and_configuration(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert main([f"model={model}", "--config", "limits.images=7"]) == 0
    out = capfd.readouterr().out
    assert "usage:" in out
    assert "images: 7" in out
    assert os.fspath(model) in out
