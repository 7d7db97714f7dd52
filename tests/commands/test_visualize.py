"""The visualizing command as a user meets it: its pictures, its page in a browser, what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from picture_folder import BROKEN, scene, write_pictures
from PIL import Image

from dinotrain.visualize import main

COMMON = ("num_heads=2", "device=cpu", "threads=1")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(tiny.backbone(num_registers=2).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "pictures"
    write_pictures(folder)
    return folder


@pytest.fixture(scope="module")
def shown(weights: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A visualization of three images; nobody changes it."""
    folder = tmp_path_factory.mktemp("shown") / "shown"
    images = [pictures / "cat" / "0.jpg", pictures / "cat" / "grey1.jpg", pictures / "dog" / "palette.png"]
    visualize(f"weights={weights}", *images, f"out={folder}", "size=32", "patch=[1,5]", *COMMON)
    return folder


def visualize(*words: object, status: int = 0) -> None:
    assert main([str(word) for word in words]) == status


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    visualize(*words, status=1)
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def record(folder: Path) -> dict:
    return json.loads((folder / "visualization.json").read_text())


def test_every_image_has_its_pictures(shown: Path) -> None:
    found = record(shown)
    assert [image["name"] for image in found["images"]] == ["cat/0.jpg", "cat/grey1.jpg", "dog/palette.png"]
    assert all(image["rows"] * image["columns"] == pytest.approx(64, rel=0.2) for image in found["images"])
    assert all(len(image["neighbours"]) == 2 for image in found["images"])
    assert {"pca.png", "attention.png", "similarity.png", "neighbours.png", "report.html"} <= set(found["files"])
    assert "images/02_grey1_attention_head02.png" in found["files"]
    for name in found["files"]:
        assert (shown / name).stat().st_size > 0
    with Image.open(shown / "images" / "01_0_pca.png") as image:
        assert image.size == (found["images"][0]["columns"] * 4, found["images"][0]["rows"] * 4)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.images: list[dict] = []
        self.stops: list[dict] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self.sources += [found[key] for key in ("src", "href") if key in found]
        if tag == "img":
            self.images.append(found)
        if found.get("tabindex") == "0":
            self.stops.append(found)


def test_the_page_needs_no_network_and_can_be_read_out(shown: Path) -> None:
    text = (shown / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert all(source.startswith("data:") for source in page.sources)
    assert "http" not in re.sub(r"data:image/\w+;base64,[A-Za-z0-9+/=]+", "", text).replace("http://www.w3.org", "")
    assert len(page.stops) == 3
    assert all("arrow keys" in stop["aria-label"] for stop in page.stops)
    assert all("alt" in image for image in page.images)
    assert 'aria-live="polite"' in text
    assert "prefers-color-scheme: dark" in text


def dom(page: Path, fragment: str = "") -> str:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser here")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
    with_profile = [
        *words,
        f"--user-data-dir={page.parent.parent / 'profile'}",
        "--dump-dom",
        f"file://{page}{fragment}",
    ]
    return subprocess.run(with_profile, capture_output=True, text=True, timeout=300).stdout


def said(text: str) -> tuple[str, str]:
    """Which patch is selected, and what is said of it."""
    selected, found = re.search(r'data-selected="([^"]*)"', text), re.search(r'id="found"[^>]*>([^<]*)<', text)
    assert selected
    assert found
    return selected[1], found[1]


def test_the_patch_that_was_asked_for_is_selected(shown: Path) -> None:
    selected, found = said(dom(shown / "report.html"))
    assert selected == "1 5"
    assert found.startswith("Image 2 (cat/grey1.jpg), row 1, column 6. Most similar: image ")


def test_an_address_names_a_patch(shown: Path) -> None:
    columns = record(shown)["images"][2]["columns"]
    selected, found = said(dom(shown / "report.html", f"#image=2&patch={columns + 1}"))
    assert selected == f"2 {columns + 1}"
    assert found.startswith("Image 3 (dog/palette.png), row 2, column 2.")
    # What is not there is not selected.
    assert said(dom(shown / "report.html", "#image=7&patch=1"))[0] == "1 5"


def test_clicks_and_arrow_keys_select_patches(shown: Path, tmp_path: Path) -> None:
    image = record(shown)["images"][0]
    script = f"""
      const stack = document.querySelectorAll("#ask .stack")[0], box = stack.getBoundingClientRect();
      const at = {{ clientX: box.left + 2.5 * box.width / {image["columns"]},
                    clientY: box.top + 1.5 * box.height / {image["rows"]}, bubbles: true }};
      stack.dispatchEvent(new MouseEvent("click", at));
      const clicked = document.getElementById("ask").dataset.selected;
      for (const key of ["ArrowRight", "ArrowDown", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowLeft"])
        stack.dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true }}));
      document.body.dataset.clicked = clicked;
      document.body.dataset.hash = location.hash;
    """
    (tmp_path / "page").mkdir()
    text = (shown / "report.html").read_text().replace("</main>", f"<script>{script}</script></main>")
    (tmp_path / "page" / "report.html").write_text(text)
    found = dom(tmp_path / "page" / "report.html")
    clicked, hashed = re.search(r'data-clicked="([^"]*)"', found), re.search(r'data-hash="([^"]*)"', found)
    assert clicked
    assert clicked[1] == f"0 {image['columns'] + 2}"
    assert said(found)[0] == "0 2"
    assert hashed
    assert hashed[1] == "#image=0&amp;patch=2"


def test_similarities_on_the_page_are_those_of_the_network(shown: Path, weights: Path, pictures: Path) -> None:
    from dinotrain.evaluation.backbone import Backbone
    from dinotrain.evaluation.features import Preparation
    from dinotrain.visualizing.seen import see
    from dinotrain.weights.weights import IMAGENET

    (mean, std) = (tuple(values) for values in IMAGENET)
    network = tiny.backbone(num_registers=2)
    backbone = Backbone(network, Preparation(size=32, crop_fraction=0.875, mean=mean, std=std))  # type: ignore[arg-type]
    names = ("cat/0.jpg", "cat/grey1.jpg", "dog/palette.png")
    tokens = []
    for name in names:
        with Image.open(pictures / name) as image:
            tokens.append(see(backbone, name, np.array(image.convert("RGB")), size=32).patches)
    unit = torch.nn.functional.normalize(torch.cat(tokens), dim=1)
    own = len(tokens[0]) + 5
    similarity = unit @ unit[own]
    similarity[own] = -2
    _, found = said(dom(shown / "report.html"))
    assert float(found.rstrip(".").rpartition(": ")[2]) == pytest.approx(float(similarity.max()), abs=0.02)


def test_one_bad_file_among_many_is_a_line(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [pictures / name for name in sorted(BROKEN) if not name.endswith("thin.png")]
    images = [*bad, pictures / "cat" / "cmyk0.jpg", pictures / "dog" / "thin.png"]
    visualize(f"weights={weights}", *images, f"out={tmp_path / 'out'}", *COMMON)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("skipped: ") for line in lines)
    assert "empty file" in lines[1]
    assert [image["name"] for image in record(tmp_path / "out")["images"]] == ["cat/cmyk0.jpg", "dog/thin.png"]
    assert record(tmp_path / "out")["facts"]["images"] == "2 of 5, the others can't be read"
    assert "images: none that can be read" in refused(
        capsys, f"weights={weights}", *bad, f"out={tmp_path / 'none'}", *COMMON
    )


def test_kinds_of_images(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    scene(1).convert("RGBA").save(folder / "alpha.png")
    scene(2).convert("LA").save(folder / "grey_alpha.png")
    scene(3).convert("CMYK").save(folder / "cmyk.tif")
    frames = [scene(number) for number in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    os.rename(folder / "alpha.png", os.fsencode(folder) + b"/\xe9 <b>&.png")
    visualize(f"weights={weights}", folder, f"out={tmp_path / 'out <i>'}", "foreground=true", *COMMON)
    names = [image["name"] for image in record(tmp_path / "out <i>")["images"]]
    assert names == ["animated.gif", "cmyk.tif", "grey_alpha.png", "\\xe9 <b>&.png"]
    page = (tmp_path / "out <i>" / "report.html").read_text()
    assert "\\xe9 &lt;b&gt;&amp;.png" in page
    assert "<b>&.png" not in page


def test_a_part_of_many_images_and_neighbours_elsewhere(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"weights={weights}", pictures / "dog", f"out={tmp_path / 'out'}", *COMMON)
    visualize(*words, "limit=3", f"bank={pictures}", "k=4", "square=true")
    found = record(tmp_path / "out")
    assert len(found["images"]) == 3
    assert "3 of 8" in found["facts"]["images"]
    assert all(image["rows"] == image["columns"] for image in found["images"])
    for image in found["images"]:
        assert image["neighbours"][0]["name"] == f"dog/{image['name']}"
        assert image["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-5)
        assert len(image["neighbours"]) == 4
    # The same folder again: what is no longer wanted is gone.
    visualize(*words, "limit=1", "k=0")
    assert not (tmp_path / "out" / "neighbours.png").exists()
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4
    assert "Nearest images" not in (tmp_path / "out" / "report.html").read_text()


def test_images_of_the_group_data(weights: Path, tmp_path: Path) -> None:
    visualize(f"weights={weights}", "data=embedded", "data.source.length=40", "limit=2", f"out={tmp_path}/o", *COMMON)
    assert len(record(tmp_path / "o")["images"]) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("limit=0",), "limit: got 0"),
        (("size=18",), "size: 18 px is not a multiple of the patches of 4 px"),
        (("foreground=maybe",), "foreground: got 'maybe', expected one of true, false, other"),
        (("patch=[0]",), "patch: got [0], expected [image, patch]"),
        (("patch=[9,0]",), "patch: got image 9, expected one of 0..0"),
        (("patch=[0,9999]",), "patch: got 9999, but image 0 has"),
        (("bank=nowhere",), "bank: nowhere does not exist"),
        (("missing.jpg",), "images: missing.jpg does not exist"),
        (("--fast",), "--fast: no such option"),
        (("data=embedded",), "data=embedded: "),
        (("sise=2",), "sise: no such key; did you mean size?"),
        (("part=ema",), "weights: "),
    ],
)
def test_mistakes_are_one_line(
    weights: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: tuple[str, ...],
    expected: str,
) -> None:
    words = (f"weights={weights}", pictures / "cat" / "0.jpg", f"out={tmp_path / 'out'}", *COMMON)
    assert expected in refused(capsys, *words, *changes)


def test_places_that_are_of_no_use(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"weights={weights}", pictures / "cat" / "0.jpg", *COMMON)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    assert "holds other files" in refused(capsys, *words, f"out={tmp_path / 'mine'}")
    assert "can't write" in refused(capsys, *words, f"out={tmp_path / 'mine' / 'file'}")
    assert "no images" in refused(capsys, f"weights={weights}", f"out={tmp_path / 'out'}", *COMMON)
