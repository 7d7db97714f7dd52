"""Everything to be measured on a GPU machine, as one command: correctness first, then speed and memory.

    python benchmarks/gpu.py [--out benchmarks/results]

Writes one JSON file, named after the device and the date, with what every part printed and measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

HERE = Path(__file__).parent

STEPS = (
    ("vits14", 64, "fp16", "xformers"),
    ("vits14", 64, "fp16", "sdpa"),
    ("vits14", 64, "bf16", "sdpa"),
    ("vitb14", 48, "bf16", "sdpa"),
    ("vitl14", 32, "bf16", "sdpa"),
    ("vitl14", 32, "fp16", "xformers"),
)
"""(model, images, precision, attention): what fits on a device of 80 GB."""


def measure_step(model: str, batch: int, precision: str, attention: str, folder: Path) -> dict:
    """One run of `benchmarks/step.py` in its own process, so that a failure costs only itself."""
    path = folder / f"{model}-{batch}-{precision}-{attention}.json"
    settings = ["--model", model, "--batch", str(batch), "--precision", precision, "--attention", attention]
    command = [sys.executable, str(HERE / "step.py"), *settings, "--prototypes", "65536", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout or done.stderr[-2000:], flush=True)
    return json.loads(path.read_text()) if path.exists() else {"settings": settings, "error": done.stderr[-2000:]}


def measure_students(folder: Path) -> list[dict]:
    """Three students of a ViT-g together and one by one, by prototypes and by features."""
    found = []
    for kind in ([], ["--features"]):
        path = folder / f"students{''.join(kind)}.json"
        models = ["--teacher", "vitg14", "--students", "vits14,vitb14,vitl14", "--batch", "16"]
        settings = [*models, "--precision", "fp16", "--prototypes", "65536", *kind]
        command = [sys.executable, str(HERE / "students.py"), *settings, "--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        print(done.stdout or done.stderr[-2000:], flush=True)
        error = {"settings": settings, "error": done.stderr[-2000:]}
        found.append(json.loads(path.read_text()) if path.exists() else error)
    return found


def measure_teacher(folder: Path) -> dict:
    """The memory that a frozen ViT-g costs."""
    path = folder / "teacher.json"
    command = [sys.executable, str(HERE / "step.py"), "--teacher", "vitg14", "--precision", "fp16", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout or done.stderr[-2000:], flush=True)
    return json.loads(path.read_text()) if path.exists() else {"error": done.stderr[-2000:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the JSON file")
    parser.add_argument("--skip-tests", action="store_true")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "no CUDA device here: nothing to measure\n")
    started = time.monotonic()
    tests = "skipped"
    if not args.skip_tests:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
        tests = done.stdout[-4000:]
        print(tests, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        steps = [measure_step(*setting, Path(folder)) for setting in STEPS]
        students, teacher = measure_students(Path(folder)), measure_teacher(Path(folder))
    name = torch.cuda.get_device_name()
    record = {
        "device": name,
        "torch": torch.__version__,
        "date": str(date.today()),
        "seconds": round(time.monotonic() - started),
        "tests": tests,
        "steps": steps,
        "students": students,
        "frozen_teacher": teacher,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{name.lower().replace(' ', '-')}-{date.today()}.json"
    path.write_text(json.dumps(record, indent=1))
    print(path)


if __name__ == "__main__":
    main()
