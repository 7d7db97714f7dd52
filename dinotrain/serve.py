"""Answer over HTTP what a model says of images.

python -m dinotrain.serve model=PATH [key=value ...]
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from dinotrain.commands.ending import Attempt
from dinotrain.commands.entry import begin
from dinotrain.errors import Status

HELP = """\
usage: python -m dinotrain.serve model=PATH [key=value ...]

Serves a classifier (a run of dinotrain.finetune, or its classifier.safetensors), or the backbone of any weights:
  POST /score     {"input_data": ["<base64>", ...], "params": {"form": "probs|ranked", "top": 5}}
  POST /embed     {"input_data": ["<base64>", ...], "params": {"parts": ["cls", "patch_mean"]}}
  POST /pictures  {"input_data": ["<base64>"]}: patch tokens as colours, attention maps
  GET  /          a page to drop an image on; /docs, /openapi.json, /health, /metrics
Ends at Ctrl-C or SIGTERM once the requests that have begun are answered. It knows neither passwords nor TLS: beyond
this machine, put it behind a server that does.

most used keys:
  host=0.0.0.0 port=8000    where it listens; default: 127.0.0.1, this machine alone; port=0 for any
  max_batch=32 max_wait_ms=5
  urls.allow=true           read images of http(s) URLs, too; never of private or loopback addresses
  size=N crop_fraction=X    of a backbone's input, as for dinotrain.evaluate
  device=cpu precision=bf16
  limits.images=64 limits.queue=256 image_limits.max_mb=20 image_limits.max_megapixels=50

options:
  --config    print the whole configuration, with what was typed, and end
  --help      this text"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, see `dinotrain.errors.Status`."""
    return begin(_run, arguments, help_text=HELP, interrupted="stopped")


def _run(words: Sequence[str], attempt: Attempt) -> Status:
    from dinotrain.commands.serving import serve

    return serve(words)


def _leave(status: int) -> NoReturn:
    """End the process, even if images are still being decoded for requests that nobody waits for any more."""
    if threading.active_count() > 1:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    _leave(main())
