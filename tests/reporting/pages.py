"""Reading a page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "link", "path", "use", "rect", "line", "circle"}


class Balance(HTMLParser):
    """Checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def read_page(path: Path, folder: Path) -> str:
    """A page that was written into a folder."""
    assert path == folder / "report.html"
    page = path.read_text()
    assert_balanced(page)
    return page


def assert_balanced(page: str) -> None:
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
