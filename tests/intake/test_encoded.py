"""Base64 as it comes over the wire."""

from __future__ import annotations

import base64

import pytest

from dinotrain.intake.encoded import from_base64
from dinotrain.intake.entry import Intake
from dinotrain.intake.limits import Limits
from dinotrain.intake.refused import Refused, Why

LIMITS = Limits(max_mb=0.001)
DATA = bytes(range(256))
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"data:image/png;base64,{TEXT}",
        f"DATA:image/svg+xml;charset=utf-8;base64,{TEXT}",
        f"data:;base64,{TEXT}",
        base64.encodebytes(DATA).decode(),
        f"  {TEXT}\r\n",
    ],
)
def test_it_is_decoded(text: str) -> None:
    assert from_base64(text, LIMITS) == DATA


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty: 0 bytes"),
        ("  \n", "empty: 0 bytes"),
        ("data:image/png;base64,", "empty: 0 bytes"),
        ("abc", "wrong base64: 3 characters, no multiple of 4"),
        ("ab-_", r"wrong base64: '-' at character 3"),
        ("../../etc/passwd", r"wrong base64: '.' at character 1"),
        ("ab\x00c", r"wrong base64: '\\x00' at character 3"),
        ("äbcd", r"wrong base64: '\\xe4' at character 1"),
        ("ab==abcd", "wrong base64: = stands before its end"),
        ("====", "wrong base64: ="),
        ("data:image/png,abcd", "wrong data URI: not in base64"),
        ("data:image/png;base64", "wrong data URI: no comma"),
    ],
)
def test_what_is_wrong_with_it_is_said(text: str, reason: str) -> None:
    with pytest.raises(Refused, match=f"^{reason}"):
        from_base64(text, LIMITS)


@pytest.mark.parametrize("size", [1001, 5000, 100_000])
def test_what_is_too_large_is_refused(size: int) -> None:
    with pytest.raises(Refused, match=r"more than 0.001 MB") as caught:
        from_base64(base64.b64encode(bytes(size)).decode(), LIMITS)
    assert caught.value.why is Why.TOO_LARGE
    assert len(from_base64(base64.b64encode(bytes(1000)).decode(), LIMITS)) == 1000


@pytest.mark.parametrize(
    "url", ["http://example.com/a.jpg", "https://x", "file:///etc/passwd", " HTTP://x", "ftp://x/y"]
)
def test_urls_are_for_those_who_allow_them(url: str) -> None:
    with pytest.raises(Refused, match="URLs are not taken here") as caught:
        Intake(limits=LIMITS).read(url)
    assert caught.value.why is Why.NOT_ALLOWED
