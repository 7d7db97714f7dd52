"""`report.html` of an evaluation: one self-contained page, made from what lies in its folder.

python -m dinotrain.reporting.evaluation_report RESULTS_FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dinotrain.errors import UserError
from dinotrain.reporting import evaluation_sections as sections
from dinotrain.reporting.page import page_command, write_page
from dinotrain.reporting.results_folder import ResultsFolder

ORDER = (sections.header, sections.headlines, sections.subject, sections.tasks, sections.provenance)


def write_evaluation_report(folder: Path) -> Path:
    """Write `report.html` into a results folder, also of one with files missing.

    Raises:
        UserError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of results")
    found = ResultsFolder(folder)
    return write_page(folder, found.name, [section(found) for section in ORDER])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    return page_command(
        words, "python -m dinotrain.reporting.evaluation_report RESULTS_FOLDER", write_evaluation_report
    )


if __name__ == "__main__":
    sys.exit(main())
