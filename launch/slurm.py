"""Submit training as a job of a SLURM cluster (or of this machine), and look after it; --help says how."""

from __future__ import annotations

import sys
from pathlib import Path

# The source tree that this file is in, wherever it is called from, installed or not.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from dinotrain.commands.submit import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
