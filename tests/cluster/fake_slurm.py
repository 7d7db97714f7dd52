"""SLURM's commands as far as submitting needs them: they write down what they are given, and say what they are told."""

from __future__ import annotations

import os
from pathlib import Path

SBATCH = """
if [ -s "{folder}/refusal" ]; then cat "{folder}/refusal" >&2; exit 1; fi
cp "$1" "{folder}/script"; env > "{folder}/environment"; pwd > "{folder}/place"
echo "Submitted batch job 7"
"""
SINFO = 'cat "{folder}/nodes"'
SQUEUE = 'for field in "$(cat "{folder}/state")" None node[0-1] 0 1:00 1-00:00:00; do printf "%-1000s" "$field"; done'
FIELDS = ("sbatch", SBATCH), ("sinfo", SINFO), ("squeue", SQUEUE), ("srun", "exit 1"), ("sacct", "exit 1")


class FakeSlurm:
    """The commands in a folder, to be put on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands = folder / "bin"
        self.commands.mkdir(parents=True)
        for name, lines in FIELDS:
            path = self.commands / name
            path.write_text("#!/bin/sh\n" + lines.replace("{folder}", str(folder)) + "\n")
            path.chmod(0o755)
        self.nodes("main*|4|16|64000|gpu:2|1-00:00:00", "long|2|16|64000|(null)|infinite")
        self.jobs_are("COMPLETED")

    @property
    def path(self) -> str:
        return f"{self.commands}{os.pathsep}{os.environ['PATH']}"

    def nodes(self, *lines: str) -> None:
        """What there is: partition|nodes|CPUs|MB|gres|time limit."""
        (self.folder / "nodes").write_text("\n".join(lines) + "\n")

    def jobs_are(self, state: str) -> None:
        (self.folder / "state").write_text(state)

    def refuse(self, text: str) -> None:
        """What sbatch prints as it fails."""
        (self.folder / "refusal").write_text(text)

    @property
    def script(self) -> str | None:
        """What sbatch was given, if anything."""
        path = self.folder / "script"
        return path.read_text() if path.exists() else None

    @property
    def environment(self) -> dict[str, str]:
        """What sbatch was called with."""
        lines = (self.folder / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    @property
    def place(self) -> str:
        """Where sbatch was called."""
        return (self.folder / "place").read_text().strip()
