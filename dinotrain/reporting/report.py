"""`report.html`: one self-contained page on a run, made from what lies in its folder.

python -m dinotrain.reporting.report RUN_FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dinotrain.errors import UserError
from dinotrain.reporting import sections
from dinotrain.reporting.page import page_command, write_page
from dinotrain.reporting.run_folder import RunFolder

ORDER = (
    sections.header,
    sections.knn,
    sections.evaluations,
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
    return write_page(run_dir, run.name, [section(run) for section in ORDER])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    return page_command(words, "python -m dinotrain.reporting.report RUN_FOLDER", write_report)


if __name__ == "__main__":
    sys.exit(main())
