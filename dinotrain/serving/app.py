"""The addresses of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from dinotrain.predicting.answer import Answers
from dinotrain.serving import pages
from dinotrain.serving.guard import Guard, print_line
from dinotrain.serving.problem import Problem
from dinotrain.serving.schemas import (
    Embedding,
    EmbedRequest,
    Failed,
    Health,
    Pictures,
    PicturesRequest,
    Probs,
    Ranked,
    ScoreRequest,
    mistake,
)
from dinotrain.serving.service import NOTES, Answer, Service

DESCRIPTION = """\
An answer holds an entry for each image, in their order. Where some images of a request can't be read, the others are
answered, and the entries of those are {"error": "..."}; the status is then 200. Where none can be read, it is 422, or
413 if all are too large. Every other error is {"error": "..."}, too, in one line."""

_WRONG: dict[int | str, dict[str, Any]] = {
    400: {"model": Failed, "description": "No valid JSON."},
    408: {"model": Failed, "description": "The body was not there in time."},
    413: {"model": Failed, "description": "Too many images or bytes, or the image is too large."},
    422: {"model": Failed, "description": "Wrong keys or values, or none of the images can be read."},
    429: {"model": Failed, "description": "The queue is full; Retry-After says when to try again, in seconds."},
    503: {"model": Failed, "description": "The server is about to end."},
    504: {"model": Failed, "description": "No answer in time."},
}
_STATUS = {
    400: "the request can't be read; expected JSON",
    404: "no such address; GET /docs lists them",
    405: "not with this method; GET /docs lists the addresses",
}


def create_app(service: Service, *, log: Callable[[str], None] = print_line) -> Guard:
    """The ASGI application.

    Args:
        service: that answers; closed at the end.
        log: told a line for each request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="dinotrain",
        summary=f"The model {service.model.name}",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            Problem: _problem,
            HTTPException: _http,
            RequestValidationError: _invalid,
            Exception: _bug,
        },
    )
    _add_questions(app, service)
    _add_pages(app, service)
    known = frozenset({"/", "/docs", "/openapi.json", "/health", "/metrics", "/score", "/embed", "/pictures"})
    return Guard(app, limits=service.limits, metrics=service.metrics, known=known, log=log)


def _add_questions(app: FastAPI, service: Service) -> None:
    scored = {"model": list[Probs | Failed] | list[list[Ranked] | Failed], "description": "With form=probs, or ranked."}

    @app.post("/score", summary="The classes of images", responses={200: scored, **_WRONG})
    async def score(request: Request, asked: ScoreRequest) -> Response:
        return _answered(await service.score(request, asked.input_data, Answers(**asked.params.model_dump())))

    embedded = {"model": list[Embedding | Failed], "description": "The parts that were asked for."}

    @app.post("/embed", summary="The embeddings of images", responses={200: embedded, **_WRONG})
    async def embed(request: Request, asked: EmbedRequest) -> Response:
        return _answered(await service.embed(request, asked.input_data, asked.params.parts))

    shown = {"model": list[Pictures], "description": "As PNG files in base64."}

    @app.post("/pictures", summary="An image as the network sees it", responses={200: shown, **_WRONG})
    async def pictures(request: Request, asked: PicturesRequest) -> Response:
        return _answered(await service.pictures(request, asked.input_data))


def _add_pages(app: FastAPI, service: Service) -> None:
    model = service.model
    page, docs = pages.front(model.name), pages.documentation(app.openapi())

    @app.get("/health", summary="Whether questions are answered", responses={200: {"model": Health}})
    async def health() -> Response:
        found = Health(
            status=service.status,
            model=model.name,
            classes=len(model.classes),
            dim=model.backbone.dim,
            size=model.preparation.size,
        )
        return JSONResponse(found.model_dump(), 200 if found.status == "ready" else 503)

    @app.get("/metrics", summary="Counters for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def front() -> Response:
        return HTMLResponse(page.html, headers=page.headers)

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return HTMLResponse(docs.html, headers=docs.headers)


def _answered(answer: Answer) -> Response:
    # Of our own words alone, so that a header can hold it.
    return JSONResponse(answer.entries, headers={NOTES: "; ".join(answer.notes)} if answer.notes else None)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Problem(error.status_code, _STATUS.get(error.status_code, "the request is refused")).response()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    return Problem(400 if errors[0]["type"] == "json_invalid" else 422, mistake(errors)).response()


async def _bug(request: Request, error: Exception) -> Response:
    """What it was is in the server's own log."""
    return Problem(500, "the server failed at this").response()
