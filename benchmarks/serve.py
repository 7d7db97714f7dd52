"""Requests a second of a server with and without batching, at several numbers of clients, in turn in one run.

Two servers of the same model run side by side, one that asks about up to --max-batch images at once, one that asks
about one. Each client sends an image, waits for the answer, and sends the next. Clients are threads of a process of
their own, on the same machine: they take from its cores what the servers do not get.

python benchmarks/serve.py --model runs/flowers --clients 1 8 32
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

BATCHING = {"batches": True, "one by one": False}


class Measured(NamedTuple):
    """Of one server, asked by so many clients for a while."""

    requests_per_second: float
    seconds: list[float]
    """Of each request."""


class Served:
    """A server in a process of its own."""

    def __init__(self, model: str, words: Sequence[str]) -> None:
        command = [sys.executable, "-m", "dinotrain.serve", f"model={model}", "port=0", "limits.requests=256", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if not first:
            raise SystemExit("the server did not start")
        self.port = int(first.split(" at ")[1].split(",")[0].rpartition(":")[2])
        # Its log is read, or it would wait for somebody to do that.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def images_per_batch(self) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        value = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("dinotrain_batch_images")}
        return value["dinotrain_batch_images_sum"] / max(value["dinotrain_batch_images_count"], 1)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def ask(port: int, clients: int, seconds: float, body: bytes) -> Measured:
    """Have so many clients ask; of each, what was begun in this time is counted."""
    found: list[list[float]] = [[] for _ in range(clients)]
    ready = threading.Barrier(clients + 1)

    def client(own: list[float]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.connect()
        ready.wait()
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            connection.request("POST", "/score", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise SystemExit(f"{answer.status}: {text[:200]!r}")
            own.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=client, args=(own,)) for own in found]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    every = [value for own in found for value in own]
    return Measured(len(every) / (time.perf_counter() - begin), every)


def request_body(side: int) -> bytes:
    """A photograph-like JPEG: smooth, with some noise."""
    generator = np.random.default_rng(0)
    rough = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    image = rough.resize((side * 4 // 3, side), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return json.dumps({"input_data": [base64.b64encode(out.getvalue()).decode()]}).encode()


def random_model(folder: Path, size: int) -> str:
    """The file of a ViT-S/16 with a linear head on 1,000 classes, all random."""
    import torch

    from dinotrain.classifiers.classifier import Classifier
    from dinotrain.models.init import initialize
    from dinotrain.models.vit import VisionTransformer
    from dinotrain.weights.architecture import Architecture
    from dinotrain.weights.classifier_file import CLASSIFIER, ClassifierDescription, write_classifier

    backbone = VisionTransformer(image_size=size, patch_size=16, embed_dim=384, depth=12, num_heads=6)
    initialize(backbone, 0, backbone.initial)
    classes = tuple(f"class {number}" for number in range(1000))
    described = ClassifierDescription(classes=classes, labels="single", blocks=1, size=size, crop_fraction=0.875)
    classifier = Classifier(backbone, described)
    torch.nn.init.normal_(classifier.head.weight, std=0.02)
    architecture = Architecture.of_tensors(dict(backbone.named_parameters()), num_heads=6)
    write_classifier(folder / CLASSIFIER, classifier.weights(architecture))
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a classifier; without it a random ViT-S/16")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--image", type=int, default=256, help="px of the shorter side of the JPEG that is sent")
    parser.add_argument("--size", type=int, default=224, help="px of the input of the random network")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    body = request_body(args.image)
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or random_model(Path(folder), args.size)
        words = {name: [f"max_batch={args.max_batch if many else 1}"] for name, many in BATCHING.items()}
        servers = {name: Served(model, [*own, f"device={args.device}"]) for name, own in words.items()}
        try:
            measure(servers, args, body)
        finally:
            for server in servers.values():
                server.end()


def measure(servers: dict[str, Served], args: argparse.Namespace, body: bytes) -> None:
    """Ask the servers in turn, and print a line for each number of clients."""
    print(
        f"{args.model or f'random ViT-S/16, {args.size} px'}, device {args.device}, {os.cpu_count()} cores, JPEG of "
        f"{len(body) * 3 // 4 / 1000:.0f} kB; median of {args.repeats} x {args.seconds:g} s, in turn"
    )
    print(f"{'clients':>7}  {'server':<11}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'batches / one by one':>22}")
    for server in servers.values():
        ask(server.port, 2, 1.0, body)
    for clients in args.clients:
        found: dict[str, list[Measured]] = {name: [] for name in servers}
        for _ in range(args.repeats):
            for name, server in servers.items():
                found[name].append(ask(server.port, clients, args.seconds, body))
        paces = {name: statistics.median(each.requests_per_second for each in own) for name, own in found.items()}
        for name, own in found.items():
            p50, p99 = (statistics.median(float(np.percentile(each.seconds, q)) for each in own) for q in (50, 99))
            ratio = f"{paces[name] / paces['one by one']:>22.2f}"
            print(
                f"{clients:>7}  {name:<11}{paces[name]:>11.1f}{1000 * p50:>9.1f}{1000 * p99:>9.1f}{ratio}", flush=True
            )
    print(f"images per batch, over all: {servers['batches'].images_per_batch():.1f}")


if __name__ == "__main__":
    main()
