"""A self-contained HTML page: its frame, and the file it goes to."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

from dinotrain.errors import Status, UserError


def write_page(folder: Path, title: str, parts: Iterable[str]) -> Path:
    """Write `report.html` into a folder; empty parts are left out. A reader never finds half a page."""
    style = Path(__file__).with_name("report.css").read_text()
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · dinotrain</title>\n<style>\n{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<footer>Written {datetime.datetime.now():%Y-%m-%d %H:%M} from {escape(str(folder.resolve()))}</footer>"
        "\n</main></body></html>\n"
    )
    path = folder / "report.html"
    beside = path.with_name("report.html.new")
    # Names of files may hold bytes that are no text.
    beside.write_text(page, encoding="utf-8", errors="replace")
    beside.replace(path)
    return path


def page_command(words: Sequence[str], usage: str, write: Callable[[Path], Path]) -> int:
    """A command that makes the page of one folder anew; returns its exit status."""
    if len(words) != 1 or words[0].startswith("-"):
        print(f"usage: {usage}", file=sys.stderr)
        return Status.USAGE
    try:
        print(write(Path(words[0])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return Status.FAILED
    return Status.DONE
