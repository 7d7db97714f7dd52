"""URLs: read within limits, and only where they may lead."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dinotrain.intake.fetch import Fetcher, addresses_of
from dinotrain.intake.limits import Limits
from dinotrain.intake.refused import Refused, Why

LIMITS = Limits(max_mb=0.01)
DATA = bytes(range(256)) * 8
PUBLIC = "93.184.215.14"


class Host:
    """Answers requests on loopback: of each path with a function of the handler."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.paths: dict[str, Callable[[Any], None]] = {}
        self.heads: list[tuple[str, str]] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.heads.append((self.path, self.headers["Host"]))
                host.paths.get(self.path.partition("?")[0], lambda handler: handler.send_error(404))(self)

            def log_message(self, *rest: Any) -> None:
                """Silent."""

        class Server(ThreadingHTTPServer):
            daemon_threads, block_on_close = True, False

            def handle_error(self, *rest: Any) -> None:
                """Clients may leave."""

        self.server = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.server.shutdown()
    host.server.server_close()


def sends(data: bytes = DATA, length: int | None = None, status: int = 200, **headers: str) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if length != -1:
            handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def drips(handler: Any) -> None:
    """A byte now and then, which would keep a time limit of single reads from ever being over."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def local(**more: Any) -> Fetcher:
    return Fetcher(**{"private": True, "seconds": 20.0, **more})


def refusal(fetcher: Fetcher, url: str) -> Refused:
    with pytest.raises(Refused) as caught:
        fetcher.fetch(url, LIMITS)
    assert "127.0.0.1" not in caught.value.reason
    return caught.value


def test_what_is_there_is_read(host: Host) -> None:
    host.paths = {"/a b.png": sends(), "/%C3%A4": sends(), "/a%20b.png": sends(), "/chunks": sends(length=-1)}
    for path in ("/a%20b.png?x=1&y=a/b", "/ä", "/chunks"):
        assert local().fetch(host.url(path), LIMITS) == DATA
    assert host.heads[0] == ("/a%20b.png?x=1&y=a/b", f"127.0.0.1:{host.port}")


@pytest.mark.parametrize("seconds", [0.4])
def test_the_time_limit_is_of_the_whole_transfer(host: Host, seconds: float) -> None:
    host.paths["/drips"] = drips
    began = time.monotonic()
    refused = refusal(local(seconds=seconds), host.url("/drips"))
    assert refused.reason == f"its URL: no whole answer within {seconds:g} s"
    assert refused.why is Why.UNREACHABLE
    assert time.monotonic() - began < 5


def test_a_host_that_hangs_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused = refusal(local(seconds=0.3), f"http://127.0.0.1:{listener.getsockname()[1]}/")
    assert "no whole answer within 0.3 s" in refused.reason


def test_a_look_up_that_hangs_is_given_up() -> None:
    over = threading.Event()
    fetcher = local(seconds=0.3, lookup=lambda host, port: [str(over.wait(10))])
    assert "no whole answer within 0.3 s" in refusal(fetcher, "http://slow.example/").reason
    over.set()


def test_size_limits_do_not_trust_the_header(host: Host) -> None:
    large = bytes(20_000)
    host.paths = {"/said": sends(large), "/unsaid": sends(large, length=-1), "/cut": sends(length=len(DATA) + 1)}
    assert refusal(local(), host.url("/said")).why is Why.TOO_LARGE
    assert refusal(local(), host.url("/unsaid")).why is Why.TOO_LARGE
    assert "cut short" in refusal(local(), host.url("/cut")).reason


def test_failures_are_told(host: Host) -> None:
    host.paths["/wrong"] = lambda handler: handler.wfile.write(b"\0\1\2 nothing\r\n\r\n")
    assert "the host answered 404" in refusal(local(), host.url("/none")).reason
    assert "no valid HTTP" in refusal(local(), host.url("/wrong")).reason
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "no connection to the host" in refusal(local(), f"http://127.0.0.1:{port}/").reason
    fetcher = local(lookup=lambda host, port: [])
    assert "no such host" in refusal(fetcher, "http://none.example/").reason


def test_redirects_are_followed_up_to_a_limit(host: Host) -> None:
    for number in range(6):
        host.paths[f"/{number}"] = sends(b"", status=302, Location=f"/{number + 1}")
    host.paths["/6"] = sends()
    assert local(redirects=3).fetch(host.url("/3"), LIMITS) == DATA
    assert "more than 3 redirects" in refusal(local(redirects=3), host.url("/2")).reason


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://x/", "gopher://x/", "http://user:secret@x/"])
def test_redirects_are_held_to_the_same_rules(host: Host, target: str) -> None:
    host.paths["/away"] = sends(b"", status=301, Location=target)
    refused = refusal(local(), host.url("/away"))
    assert refused.why is Why.NOT_ALLOWED
    assert "secret" not in refused.reason


def _first_hop_to(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A public address that leads to our host, as a stranger's would; returns all that was connected to."""
    connected: list[tuple[str, int]] = []
    connect = socket.create_connection

    def to(address: tuple[str, int], *rest: Any) -> socket.socket:
        connected.append(address)
        return connect(("127.0.0.1", host.port) if address[0] == PUBLIC else address, *rest)

    monkeypatch.setattr("dinotrain.intake.connection.socket.create_connection", to)
    return connected


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1/", "http://169.254.169.254/latest", "http://[::1]/", "//localhost"]
)
def test_redirects_to_private_addresses_are_refused(host: Host, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    host.paths["/away"] = sends(b"", status=302, Location=target)
    connected = _first_hop_to(host, monkeypatch)
    fetcher = Fetcher(lookup=lambda name, port: [PUBLIC] if name == "public.example" else addresses_of(name, port))
    refused = refusal(fetcher, "http://public.example/away")
    assert "not one of the public internet" in refused.reason
    assert connected == [(PUBLIC, 80)]


def test_a_name_that_changes_its_address_gains_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.paths["/"] = sends()
    connected = _first_hop_to(host, monkeypatch)
    found = iter([[PUBLIC], ["127.0.0.1"]])
    assert Fetcher(lookup=lambda name, port: next(found)).fetch("http://rebinding.example/", LIMITS) == DATA
    assert connected == [(PUBLIC, 80)]
    assert host.heads == [("/", "rebinding.example")]


@pytest.mark.parametrize("addresses", [[PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC], ["::ffff:127.0.0.1"]])
def test_one_private_address_of_a_name_is_enough(addresses: list[str]) -> None:
    refused = refusal(Fetcher(lookup=lambda name, port: addresses), "http://mixed.example/")
    assert "not one of the public internet" in refused.reason


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://localhost/", "http://0.0.0.0/", "http://2130706433/", "http://0x7f000001/"),
        *("http://0177.0.0.1/", "http://127.1/", "http://0/", "http://[::1]/", "http://[::]/", "http://10.1.2.3:8080/"),
        *("http://[::ffff:127.0.0.1]/", "https://192.168.0.1/", "http://[fe80::1%25lo]/", "http://169.254.169.254/"),
    ],
)
def test_private_addresses_are_refused_in_all_their_forms(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dinotrain.intake.connection.socket.create_connection", lambda *rest: pytest.fail("it was connected to")
    )
    with pytest.raises(Refused, match=r"not one of the public internet|no such host"):
        Fetcher().fetch(url, LIMITS)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/", "only http:// and https://"),
        ("file:///etc/passwd", "only http:// and https://"),
        ("http://user@example.com/", "user name or password"),
        ("http://a:b@example.com/", "user name or password"),
        ("http://example.com:99999/", "can't be read as a URL"),
        ("http://example.com:0/", "can't be read as a URL"),
        ("http:///x", "can't be read as a URL"),
        ("http://[::1/", "can't be read as a URL"),
        ("http://exa mple.com/", "blanks"),
        ("http://example.com/\r\nX: y", "blanks"),
        ("http://example.com\\@127.0.0.1/", "backslashes"),
        (f"http://{'ä' * 80}.example/", "its host is no name"),
    ],
)
def test_odd_urls_are_refused(url: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        Fetcher(lookup=lambda *place: pytest.fail("it was looked up")).fetch(url, LIMITS)


def _certificate(folder: Path, name: str) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def test_certificates_are_those_of_the_name_not_of_the_address(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    path = _certificate(tmp_path, "pictures.example")
    asked: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.sni_callback = lambda connection, name, own: asked.append(name)
    host = Host(context)
    host.paths["/"] = sends()
    fetcher = local(lookup=lambda name, port: ["127.0.0.1"], context=ssl.create_default_context(cafile=path))
    try:
        assert fetcher.fetch(f"https://pictures.example:{host.port}/", LIMITS) == DATA
        assert "no valid TLS" in refusal(fetcher, f"https://other.example:{host.port}/").reason
        assert "no valid TLS" in refusal(local(lookup=fetcher.lookup), f"https://pictures.example:{host.port}/").reason
    finally:
        host.server.shutdown()
        host.server.server_close()
    assert asked[:2] == ["pictures.example", "other.example"]
    assert host.heads == [("/", f"pictures.example:{host.port}")]


@pytest.mark.parametrize("change", [{"seconds": 0}, {"seconds": float("nan")}, {"redirects": -1}, {"redirects": 1.5}])
def test_arguments_out_of_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))}: got"):
        Fetcher(**change)
