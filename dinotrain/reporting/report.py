"""`report.html`: one self-contained page on a run, made from what lies in its folder.

python -m dinotrain.reporting.report RUN_FOLDER
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from dinotrain.errors import UserError
from dinotrain.reporting import sections
from dinotrain.reporting.run_folder import RunFolder

ORDER = (
    sections.header,
    sections.knn,
    sections.tiles,
    sections.warnings,
    sections.pictures,
    sections.charts,
    sections.skipped,
    sections.environment,
    sections.config,
)


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder, also of an interrupted run, and one with files missing.

    Raises:
        UserError: if there is no such folder.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run folder")
    run = RunFolder(run_dir)
    parts = [section(run) for section in ORDER]
    style = Path(__file__).with_name("report.css").read_text()
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run.name)} · dinotrain</title>\n<style>\n{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<footer>Written {datetime.datetime.now():%Y-%m-%d %H:%M} from {escape(str(run_dir.resolve()))}</footer>"
        "\n</main></body></html>\n"
    )
    path = run_dir / "report.html"
    beside = path.with_name("report.html.new")
    beside.write_text(page, encoding="utf-8")
    beside.replace(path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) != 1 or words[0].startswith("-"):
        print("usage: python -m dinotrain.reporting.report RUN_FOLDER", file=sys.stderr)
        return 2
    try:
        print(write_report(Path(words[0])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
