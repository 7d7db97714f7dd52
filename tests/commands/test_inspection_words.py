"""What the inspection says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dinotrain.commands.inspection_words import (
    advice_on_sizes,
    advice_on_workers,
    amount,
    broken_rows,
    percent,
    preparation_command,
    stored_side,
    training_command,
)
from dinotrain.data.batch import Skipped
from dinotrain.data.crops import MultiCrop
from dinotrain.inspection.enlargement import Enlargement
from dinotrain.inspection.survey import PIXELS, Survey
from dinotrain.inspection.throughput import Measurement

CROPS = MultiCrop()


def _survey(read: int = 100, total: int = 100, broken: int = 0, side: int = 400, format: str = "JPEG") -> Survey:
    return Survey(
        total=total,
        widths=np.full(read, side),
        heights=np.full(read, side),
        sizes=np.full(read, 1000),
        formats=Counter({format: read}),
        modes=Counter(RGB=read),
        broken=tuple(Skipped(f"{number}.jpg", "cut short") for number in range(broken)),
        too_small=0,
    )


def _measured(workers: int, speed: float, waiting: float = 0.0, without_core: float = 0.0) -> Measurement:
    return Measurement(
        workers=workers, images_per_second=speed, processor_ms=1.0, without_core=without_core, waiting=waiting
    )


def _consequence(found: Survey, max_broken: float, left_out: int = 0) -> str:
    return dict(broken_rows(found, left_out, max_broken)).get("", "")


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.0001, "less than 0.1 %"), (0.012, "1.2 %"), (0.25, "25 %"), (0.9999, "99.9 %"), (1, "100 %")],
)
def test_rare_is_not_nothing_and_nearly_all_not_all(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("size", "text"), [(3, "3 bytes"), (1500, "1.5 kB"), (142_000, "142 kB"), (999_900, "1.0 MB"), (2.4e10, "24 GB")]
)
def test_bytes_have_a_unit_that_suits_them(size: float, text: str) -> None:
    assert amount(size) == text


def test_the_training_command_has_what_was_typed_and_the_workers() -> None:
    words = ["+experiment=vits14", "data.root=/a b", "inspect.images=null", "runtime.workers=3", "++inspect.seconds=1"]
    assert training_command(words, 8) == (
        "python -m dinotrain.train +experiment=vits14 'data.root=/a b' runtime.workers=8"
    )
    assert training_command(words, None).endswith("'data.root=/a b' runtime.workers=3")


def test_commands_have_no_more_quotes_than_they_need() -> None:
    assert training_command(["data=folder", "data.root='/photos/a-b.x'"], None).endswith(" data.root=/photos/a-b.x")
    assert training_command(["data.root='photos'"], None).endswith(" data.root=photos")
    assert training_command(["data.root='12'"], None).endswith(""" 'data.root='"'"'12'"'"''""")
    assert training_command(["data.root='Null'"], None).endswith(""" 'data.root='"'"'Null'"'"''""")
    assert training_command(["data.root='/photos/a b'"], None).endswith(""" 'data.root='"'"'/photos/a b'"'"''""")


def test_the_preparation_command_has_the_data_alone() -> None:
    words = ["+experiment=vits14", "data=list", "data.root=/a.csv", "+storage.options.anon=true", "seed=1"]
    assert preparation_command(words, 512) == (
        "python -m dinotrain.prepare data=list data.root=/a.csv +storage.options.anon=true out=DIR resize_short=512"
    )


def test_what_training_would_do_is_known_when_all_images_were_read() -> None:
    assert _consequence(_survey(), 0.01) == ""
    assert _consequence(_survey(broken=1), 0.0).startswith("training goes on")  # a single one always may be broken
    assert _consequence(_survey(broken=2), 0.01).startswith("training would stop")
    assert _consequence(_survey(broken=2), 0.02).startswith("training goes on")
    assert _consequence(_survey(broken=2), 0.02, left_out=1).startswith("training would stop")


def test_what_training_would_do_may_be_open_when_some_were_read() -> None:
    some = _survey(read=100, total=10**6, broken=2)
    assert _consequence(some, 0.001).startswith("training would stop: data.max_broken=0.001 allows 1,000")
    assert _consequence(some, 0.02).startswith("training may stop")
    assert _consequence(some, 0.2).startswith("training goes on")


def test_small_and_large_images_call_for_advice() -> None:
    assert advice_on_sizes(_survey(), CROPS, Enlargement(300, 0.1)) is None
    assert "small for global crops of 224 px" in (advice_on_sizes(_survey(), CROPS, Enlargement(100, 1.0)) or "")
    assert "much larger" in (advice_on_sizes(_survey(side=1000), CROPS, Enlargement(700, 0.0)) or "")
    assert stored_side(_survey(side=1000), CROPS) == 512
    assert stored_side(_survey(side=1000, format=PIXELS), CROPS) is None


def test_advice_on_workers_says_what_limits_them() -> None:
    quick = advice_on_workers([_measured(1, 100), _measured(2, 199), _measured(4, 200)], cores=4)
    assert len(quick) == 1
    assert "runtime.workers=2" in quick[0]
    remote = "\n".join(advice_on_workers([_measured(1, 10, 0.9), _measured(2, 20, 0.9)], cores=2))
    assert "wait for data" in remote
    assert "inspect.max_workers=8" in remote
    busy = "\n".join(advice_on_workers([_measured(1, 10, without_core=0.5)], cores=1))
    assert "other processes" in busy
