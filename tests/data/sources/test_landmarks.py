from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinotrain.data.broken import BrokenImage
from dinotrain.data.sources.landmarks import LandmarksSource
from dinotrain.data.sources.plain_pickle import load_plain
from dinotrain.errors import UserError

SIZES = {"a": (40, 30), "b": (32, 32), "c": (50, 20), "q": (60, 40)}


def content() -> dict[str, Any]:
    return {
        "imlist": ["a", "b", "c"],
        "qimlist": ["q", "a"],
        "gnd": [
            {"bbx": [10.2, 5.0, 30.7, 39.6], "easy": np.array([0]), "hard": [2], "junk": []},
            {"bbx": np.array([-3.0, 0, 400, 20]), "easy": [], "hard": np.array([1, 2]), "junk": (0,)},
        ],
    }


def benchmark(root: Path, gnd: Any = None, *, protocol: int = 2, name: str = "gnd_roxford5k.pkl") -> Path:
    (root / "jpg").mkdir(exist_ok=True)
    for number, (image, size) in enumerate(SIZES.items()):
        Image.new("RGB", size, (60 * number, 0, 0)).save(root / "jpg" / f"{image}.jpg")
    (root / name).write_bytes(gnd if isinstance(gnd, bytes) else pickle.dumps(gnd or content(), protocol=protocol))
    return root


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_database_queries_and_ground_truth(tmp_path: Path, protocol: int) -> None:
    source = LandmarksSource(root=benchmark(tmp_path, protocol=protocol))
    assert len(source) == 3
    assert source.name(2) == "jpg/c.jpg"
    assert source.image(2).shape == (20, 50, 3)
    assert source.labels is None
    queries = source.test()
    assert len(queries) == 2
    assert queries.test() is None
    # Cut to their boxes, which may reach beyond the image.
    assert queries.image(0).shape == (35, 21, 3)
    assert queries.image(1).shape == (20, 40, 3)
    first, second = source.ground_truth
    assert (first.easy.tolist(), first.hard.tolist(), first.junk.tolist()) == ([0], [2], [])
    assert (second.easy.tolist(), second.hard.tolist(), second.junk.tolist()) == ([], [1, 2], [0])
    assert source.fingerprint() != queries.fingerprint()


def test_files_of_python_2_are_read(tmp_path: Path) -> None:
    # `{'imlist': ['a'], 'qimlist': ['q'], 'gnd': [{'bbx': [1.0, 2.0, 9.0, 8.0], 'easy': array([0]), ...}]}`, where
    # strings are bytes, as Python 2.7 and its numpy write them in protocol 2.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + bytes(8) + b"tb"
    )
    box = b"]" + b"".join(b"G" + np.array(x, ">f8").tobytes() + b"a" for x in (1, 2, 9, 8))
    entry = b"}U\x03bbx" + box + b"sU\x04easy" + array + b"sU\x04hard]sU\x04junk]s"
    gnd = b"\x80\x02}U\x06imlist]U\x01aasU\x07qimlist]U\x01qasU\x03gnd]" + entry + b"as."
    source = LandmarksSource(root=benchmark(tmp_path, gnd))
    assert source.ground_truth[0].easy.tolist() == [0]
    assert source.test().image(0).shape == (6, 8, 3)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("echo harm > harm",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("value", [Evil(), [{"x": Evil()}], np.array([Evil()], dtype=object)])
def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data.root: can't read .*gnd_roxford5k.pkl: it asks for (posix|nt).system"):
        LandmarksSource(root=benchmark(tmp_path, pickle.dumps(value, protocol=protocol)))
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        pickle.dumps(content())[:-20],
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"Px\n.",
    ],
)
def test_damaged_and_foreign_pickles_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it ") as error:
        load_plain(data)
    assert "\n" not in str(error.value)


def test_plain_values_come_through() -> None:
    value = {"a": [1, 2.5, True, None, (3, "x")], "c": b"bytes", "n": np.float32(2), "e": np.eye(2), "u": np.array("x")}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found = load_plain(pickle.dumps(value, protocol=protocol))
        assert found["a"] == value["a"]
        assert found["n"] == 2
        assert np.array_equal(found["e"], np.eye(2))
        assert found["c"] == b"bytes"
        assert str(found["u"]) == "x"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"gnd": []}, "gnd: expected a list with an entry for each of the 2 queries"),
        ({"imlist": [1, 2]}, "imlist: expected a list of names"),
        ({"imlist": ["../../etc/passwd"]}, "imlist: '../../etc/passwd' is no name"),
        ({"gnd": [{"bbx": [0, 0, 1, 1]}] * 2}, "gnd[0]: expected a dictionary with bbx, easy, hard and junk"),
        ({"gnd": [{**content()["gnd"][0], "bbx": [0, 0, 1]}] * 2}, "gnd[0].bbx: expected left, top, right, bottom"),
        ({"gnd": [{**content()["gnd"][0], "easy": [3]}] * 2}, "gnd[0].easy: expected numbers of images in 0..2"),
        ({"gnd": [{**content()["gnd"][0], "junk": ["a"]}] * 2}, "gnd[0].junk: expected numbers of images in 0..2"),
    ],
)
def test_wrong_contents_are_refused(tmp_path: Path, change: dict, line: str) -> None:
    with pytest.raises(UserError, match=re.escape(line)):
        LandmarksSource(root=benchmark(tmp_path, content() | change))


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.root: .* has no file gnd_\*.pkl, expected the folder of one benchmark"):
        LandmarksSource(root=tmp_path)
    (tmp_path / "gnd_x.pkl").write_bytes(pickle.dumps(content()))
    with pytest.raises(UserError, match="has no folder jpg"):
        LandmarksSource(root=tmp_path)
    source = LandmarksSource(root=benchmark(tmp_path, name="gnd_x.pkl"))
    (tmp_path / "jpg" / "b.jpg").unlink()
    with pytest.raises(BrokenImage, match="No such file"):
        source.image(1)


def test_a_box_outside_of_the_image_is_a_broken_image(tmp_path: Path) -> None:
    gnd = content()
    gnd["gnd"][0]["bbx"] = [500, 5, 600, 30]
    with pytest.raises(BrokenImage, match="its box 500,5,600,30 is outside of 60 x 40"):
        LandmarksSource(root=benchmark(tmp_path, gnd)).test().image(0)
