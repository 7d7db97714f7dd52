"""Images from URLs, within limits of time and size, and not from the networks behind this machine."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from dinotrain.data.arguments import number, whole
from dinotrain.intake.addresses import is_public
from dinotrain.intake.connection import Connection, Deadline
from dinotrain.intake.limits import Limits
from dinotrain.intake.picture import too_many_bytes
from dinotrain.intake.refused import Refused, Why

Lookup = Callable[[str, int], Sequence[str]]

_MOVED = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_PIECE = 2**16
_READABLE = "!#$%&'()*+,/:;=?@[]~"  # what has a meaning in URLs, and escapes that are there already
_NO_ADDRESS = "no such host"


class _Place(NamedTuple):
    """Where a URL points."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query."""


class _Redirect(NamedTuple):
    url: str


def addresses_of(host: str, port: int) -> list[str]:
    """What the system says are the addresses of a host, in its order; all forms of numbers are understood by it."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Reads images at http:// and https:// URLs.

    A host name is looked up once for each request; the address that was checked is the one that is connected to, so
    that a name that changes its address in between gains nothing. Proxies of the environment are not used.

    Args:
        seconds: for all of it: look-up, connection, redirects and transfer.
        redirects: most that are followed; each is checked like the first URL.
        private: whether addresses may be read that are not of the public internet, for people who type URLs themselves.
        lookup: from host and port to addresses; raises OSError where there are none.
        context: of TLS; None for the system's certificates.

    Raises:
        ValueError: for an argument out of its bounds.
    """

    seconds: float = 10.0
    redirects: int = 3
    private: bool = False
    lookup: Lookup = addresses_of
    context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        number("seconds", self.seconds, 0.1, 3600)
        whole("redirects", self.redirects, 0, 20)

    def fetch(self, url: str, limits: Limits) -> bytes:
        """The bytes at a URL.

        Raises:
            Refused: with the reason.
        """
        deadline = Deadline(self.seconds)
        try:
            for _ in range(self.redirects + 1):
                found = self._request(url, limits, deadline)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found.url)
        except TimeoutError as error:
            raise Refused(f"its URL: no whole answer within {self.seconds:g} s", Why.UNREACHABLE) from error
        except ssl.SSLError as error:
            raise Refused("its URL: no valid TLS connection to the host", Why.UNREACHABLE) from error
        except OSError as error:
            raise Refused("its URL: no connection to the host, or it broke", Why.UNREACHABLE) from error
        except (http.client.HTTPException, ValueError) as error:
            raise Refused("its URL: the host's answer is no valid HTTP", Why.UNREACHABLE) from error
        raise Refused(f"its URL: more than {self.redirects} redirects", Why.UNREACHABLE)

    def _request(self, url: str, limits: Limits, deadline: Deadline) -> bytes | _Redirect:
        place = _place(url)
        context = None if place.scheme == "http" else self.context or ssl.create_default_context()
        address = self._address(place, deadline)
        connection = Connection(place.host, place.port, address=address, context=context, deadline=deadline)
        try:
            headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "dinotrain"}
            connection.request("GET", place.target, headers={**headers, "Connection": "close"})
            with connection.getresponse() as response:
                return _content(response, limits)
        finally:
            connection.close()

    def _address(self, place: _Place, deadline: Deadline) -> str:
        """The first address of a host, all of which have to be public: who controls a name controls all of them."""
        found = _in_time(self.lookup, place, deadline)
        if not found:
            raise Refused(f"its URL: {_NO_ADDRESS}", Why.UNREACHABLE)
        if not self.private and not all(map(is_public, found)):
            raise Refused("its URL: the address of its host is not one of the public internet", Why.NOT_ALLOWED)
        return found[0]


def _content(response: http.client.HTTPResponse, limits: Limits) -> bytes | _Redirect:
    if response.status in _MOVED and (location := response.getheader("Location")):
        return _Redirect(location)
    if response.status != http.client.OK:
        raise Refused(f"its URL: the host answered {response.status}", Why.UNREACHABLE)
    announced = response.length
    if announced is not None and announced > limits.bytes:
        raise too_many_bytes(limits)
    body = bytearray()
    while piece := response.read(_PIECE):
        body += piece
        if len(body) > limits.bytes:
            raise too_many_bytes(limits)
    if announced is not None and len(body) < announced:
        raise Refused("its URL: the transfer was cut short", Why.UNREACHABLE)
    return bytes(body)


def _place(url: str) -> _Place:
    """A URL in parts.

    Raises:
        Refused: for one that is not followed.
    """
    if any(ord(letter) <= 0x20 or ord(letter) == 0x7F for letter in url) or "\\" in url:
        raise _wrong("it holds blanks, line ends or backslashes")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _wrong("it can't be read as a URL") from None
    if parts.scheme not in _PORTS:
        raise _wrong("only http:// and https:// are followed")
    if "@" in parts.netloc:
        raise _wrong("it holds a user name or password")
    if port == 0 or not parts.hostname:
        raise _wrong("it can't be read as a URL")
    target = quote(parts.path or "/", safe=_READABLE) + (
        f"?{quote(parts.query, safe=_READABLE)}" if parts.query else ""
    )
    return _Place(parts.scheme, _ascii(parts.hostname), port or _PORTS[parts.scheme], target)


def _ascii(host: str) -> str:
    """A host name as it is looked up and compared with certificates."""
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise _wrong("its host is no name") from None


def _wrong(reason: str) -> Refused:
    return Refused(f"its URL: {reason}", Why.NOT_ALLOWED)


def _in_time(lookup: Lookup, place: _Place, deadline: Deadline) -> Sequence[str]:
    """Look a host up; the system's own time limits are not ours."""
    found: list[Sequence[str]] = []

    def look() -> None:
        try:
            found.append(lookup(place.host, place.port))
        except (OSError, UnicodeError):
            found.append(())

    # Not of a pool: one that hangs must keep neither the next look-up nor the end of the process waiting.
    thread = threading.Thread(target=look, name="look-up", daemon=True)
    thread.start()
    thread.join(deadline.left())
    if not found:
        raise TimeoutError
    return found[0]
