"""What requests and answers look like; what a request must not be is said in words of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

_IMAGES = (
    "Each is base64 of an image file, with or without data:...;base64, before it; or a URL, where these are taken."
)

# Without FailFast, a fault is written down for each of a million wrong items, which takes long and much memory.
Images = Annotated[list[str], FailFast(), Field(min_length=1, description=f"Images. {_IMAGES}")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _with_one_fault(cls, given: Any) -> Any:
        """Of the keys that are unknown only the first: a fault is written down for each."""
        if not isinstance(given, dict):
            return given
        unknown = [key for key in given if key not in cls.model_fields]
        return {key: given[key] for key in (*cls.model_fields, *unknown[:1]) if key in given} if unknown else given


class ScoreParams(_Request):
    """How classes are told."""

    form: Literal["probs", "ranked"] = "probs"
    top: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Most classes, the likeliest first; null for all of probs, 5 of ranked."
    )
    threshold: Annotated[float, Field(ge=0, le=1, strict=False)] | None = Field(
        default=None,
        description="Least probability, with classes that do not exclude each other; null for the model's own.",
    )


class ScoreRequest(_Request):
    """Images whose classes are asked for."""

    input_data: Images
    params: ScoreParams = ScoreParams()


class EmbedParams(_Request):
    """Which vectors are asked for."""

    parts: Annotated[list[Literal["cls", "patch_mean"]], FailFast(), Field(min_length=1)] = ["cls", "patch_mean"]


class EmbedRequest(_Request):
    """Images whose embeddings are asked for."""

    input_data: Images
    params: EmbedParams = EmbedParams()


class PicturesRequest(_Request):
    """An image that is to be shown as the network sees it."""

    input_data: Annotated[list[str], FailFast(), Field(min_length=1, max_length=1, description=f"One image. {_IMAGES}")]


class Failed(BaseModel):
    """Why there is no answer, in one line."""

    error: str


class Probs(BaseModel):
    """Probabilities of classes, and their names."""

    probs: list[float]
    labels: list[str]


class Ranked(BaseModel):
    """A class, of those told with form=ranked."""

    label: str
    score: float


class Embedding(BaseModel):
    """Vectors of an image, after the final norm."""

    cls: list[float] | None = None
    patch_mean: list[float] | None = None


class Attention(BaseModel):
    """Base64 of PNG files: CLS attention of the last block."""

    mean: str
    heads: list[str]


class Pictures(BaseModel):
    """Base64 of PNG files, a pixel per patch but for the image."""

    image: str
    pca: str
    attention: Attention


class Health(BaseModel):
    """Whether questions are answered, and about what."""

    status: Literal["ready", "failing", "stopping"]
    model: str
    classes: int = Field(description="0 for a backbone without a classifier.")
    dim: int = Field(description="Of an embedding.")
    size: int = Field(description="px of the square that the network sees.")


_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "no such key",
    "string_type": "expected text",
    "list_type": "expected a list",
    "too_short": "expected at least one",
    "too_long": "expected one",
    "literal_error": "expected {expected}",
    "greater_than_equal": "expected a number of at least {ge}",
    "less_than_equal": "expected a number of at most {le}",
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "dict": "an object",
    "model": "an object",
    "bool": "true or false",
}


def mistake(errors: Sequence[Mapping[str, Any]]) -> str:
    """The first thing that is wrong with a request, in one line."""
    error = errors[0]
    kind, context = str(error["type"]), error.get("ctx", {})
    if kind == "json_invalid":
        return "the body is no valid JSON"
    # The first is "body"; what the request itself calls its keys is not repeated at length.
    place = ".".join(str(part)[:40] for part in error["loc"][1:])
    if not place:
        return 'expected a JSON object such as {"input_data": ["..."]}, with the header Content-Type: application/json'
    known = _WORDS.get(kind) or f"expected {_KINDS.get(kind.partition('_')[0], 'another value')}"
    return f"{ascii(place)[1:-1]}: {known.format_map(context)}"
