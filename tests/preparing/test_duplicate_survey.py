from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparing.image_sets import encoded, picture
from preparing.test_conversion import Given

from dinotrain.preparing import survey as module
from dinotrain.preparing.duplicates import Match
from dinotrain.preparing.progress import Progress
from dinotrain.preparing.sequence import ImageSequence
from dinotrain.preparing.survey import Survey


def images() -> Given:
    """Twelve pictures; 12, 13 and 14 are copies of 3, the second of them larger; 15 is broken."""
    files = [encoded(picture(seed)) for seed in range(12)]
    pixels = Image.fromarray(picture(3))
    larger = encoded(np.asarray(pixels.resize((240, 180), Image.Resampling.BICUBIC)))
    return Given(*files, encoded(picture(3), quality=60), larger, files[3], b"text")


def surveyed(folder: Path, source: Given, *, shuffle: bool = False, report=lambda progress: None) -> Survey:
    sequence = ImageSequence(source, shuffle=shuffle, seed=0, limit=None)
    survey = Survey(source, sequence, near_distance=4, folder=folder)
    survey.run(2, report)
    return survey


def outcome(survey: Survey, count: int) -> list[tuple[int, str | None, Match | None] | None]:
    known = list(survey.left_out(0))
    assert len(known) == count
    assert len(list(survey.left_out(count - 3))) == 3
    return [None if one is None else (one[0].index, one[0].reason, one[1]) for one in known]


def test_the_largest_of_its_copies_is_kept(tmp_path: Path) -> None:
    survey = surveyed(tmp_path, images())
    found = outcome(survey, 16)
    assert [place for place in range(16) if found[place] is None] == [*range(3), *range(4, 12), 13]
    assert list(survey.to_convert(0)) == [*range(3), *range(4, 12), 13]
    assert list(survey.to_convert(12)) == [13]
    for place in (3, 12, 14):
        index, reason, match = found[place] or (0, None, None)
        assert (index, reason) == (place, None)
        assert match is not None
        assert match.index == 13
    assert found[15] is not None
    assert found[15][1]


def test_the_order_does_not_decide_which_one_is_kept(tmp_path: Path) -> None:
    source = images()
    survey = surveyed(tmp_path, source, shuffle=True)
    assert sorted(survey.to_convert(0)) == [*range(3), *range(4, 12), 13]


def test_a_survey_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 4)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = outcome(surveyed(tmp_path / "whole", images(), shuffle=True), 16)

    def stop(progress: Progress) -> None:
        if progress.looked_at == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surveyed(tmp_path / "parts", images(), shuffle=True, report=stop)
    source = images()
    survey = Survey(
        source, ImageSequence(source, shuffle=True, seed=0, limit=None), near_distance=4, folder=tmp_path / "parts"
    )
    assert survey.progress.looked_at == 8
    assert outcome(surveyed(tmp_path / "parts", source, shuffle=True), 16) == whole
    (tmp_path / "parts" / "survey-000001.npz").write_bytes(b"damaged")
    assert outcome(surveyed(tmp_path / "parts", source, shuffle=True), 16) == whole
