"""Why a remote file could not be read, and whether trying again may help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import NamedTuple

_PASSING_STATUS = (408, 425, 429)
_PASSING_CODES = ("SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "InternalError", "IncompleteBody")
# Types by name, for the packages that define them need not be installed: aiohttp, botocore, httpx, requests.
_CUT_TYPES = ("ClientPayloadError", "ResponseStreamingError", "IncompleteReadError", "ChunkedEncodingError")
_PASSING_TYPES = (
    *("ClientConnectionError", "HTTPClientError", "ResponseParserError"),
    *("TransportError", "ConnectionError", "Timeout"),
)
_LASTING_ERRORS = (PermissionError, IsADirectoryError, NotADirectoryError)


class Fault(NamedTuple):
    """A failure in words."""

    reason: str
    """On one line."""
    passing: bool
    """It may be gone the next time."""


def fault(error: BaseException, timeout: float) -> Fault:
    """What to make of an error that a file system raised.

    Args:
        timeout: seconds that a request may take.
    """
    causes = list(_causes(error))
    for cause in causes:
        if (found := _error_code(cause) or _lost(cause, timeout) or _status(cause)) is not None:
            return found
    if isinstance(error, FileNotFoundError):
        return Fault(_http(404) if str(error).startswith(("http://", "https://")) else "no such file", False)
    return Fault(_line(error), isinstance(error, OSError) and not isinstance(error, _LASTING_ERRORS))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was made from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _error_code(error: BaseException) -> Fault | None:
    """Of botocore's ClientError: S3 names its errors."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict) or "Error" not in response:
        return None
    code, message = str(response["Error"].get("Code", "")), str(response["Error"].get("Message", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    passing = code in _PASSING_CODES or status >= 500 or status in _PASSING_STATUS
    if code.isdigit():
        return Fault(_http(int(code)), passing)
    return Fault(_line(f"{code}: {message}" if message else code), passing)


def _lost(error: BaseException, timeout: float) -> Fault | None:
    """No answer, or not all of it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, TimeoutError):
        return Fault(f"no answer within {timeout:g} s", True)
    if not kinds.isdisjoint(_CUT_TYPES):
        return Fault("the answer was cut short", True)
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return Fault("connection refused", True)
    return None if kinds.isdisjoint(_PASSING_TYPES) else Fault(_line(error), True)


def _status(error: BaseException) -> Fault | None:
    """HTTP status that an error of aiohttp, httpx, requests or gcsfs tells."""
    places = ((error, "status"), (error, "code"), (getattr(error, "response", None), "status_code"))
    for status in (getattr(holder, name, None) for holder, name in places):
        if isinstance(status, int) and 400 <= status < 600:
            return Fault(_http(status), status >= 500 or status in _PASSING_STATUS)
    return None


def _http(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


def _line(error: object) -> str:
    """Its message on one line; what follows the `?` of a URL may be a signature."""
    return re.sub(r"(://[^\s?]+)\?\S*", r"\1", " ".join(str(error).split())) or type(error).__name__
