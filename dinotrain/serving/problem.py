"""Answers to requests that are not carried out."""

from __future__ import annotations

from fastapi.responses import JSONResponse

RETRY_SECONDS = 1
ABOUT_TO_END = "the server is about to end"
GONE = 499
"""Of those who left before their answer; only for the log."""


class Problem(Exception):
    """A request that is not carried out.

    The message is for who asked: one line that shows nothing of this machine.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason

    def response(self) -> JSONResponse:
        """As it is sent."""
        headers = {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else None
        return JSONResponse({"error": self.reason}, self.status, headers)
