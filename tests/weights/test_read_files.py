"""Every kind of file, and what is wrong with files: nothing in them is ever run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file
from stored_networks import assert_same, refusal
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.weights.hugging_face import write_hugging_face
from dinotrain.weights.read import read_weights
from dinotrain.weights.runs import write_backbone
from dinotrain.weights.timm_layout import to_timm


@pytest.fixture
def state() -> dict[str, Tensor]:
    return dict(tiny.backbone().state_dict())


def save_legacy(state: Any, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_without_checksums(state: Any, path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)


WRITERS: list[Callable[[Any, Path], None]] = [torch.save, save_legacy, save_without_checksums, save_file]


@pytest.mark.parametrize("write", WRITERS)
def test_told_apart_by_content(tmp_path: Path, state: dict[str, Tensor], write: Callable[[Any, Path], None]) -> None:
    path = tmp_path / "weights.misleading"
    write(state, path)
    assert_same(read_weights(str(path), num_heads=2).backbone, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_stay_as_they_are_stored(tmp_path: Path, state: dict[str, Tensor], dtype: torch.dtype) -> None:
    path = tmp_path / "a.pth"
    torch.save({name: value.to(dtype) for name, value in state.items()}, path)
    assert {value.dtype for value in read_weights(str(path), num_heads=2).backbone.values()} == {dtype}


def test_the_digest_is_that_of_the_values(tmp_path: Path, state: dict[str, Tensor]) -> None:
    digests = set()
    for number, write in enumerate(WRITERS):
        path = tmp_path / f"{number}.pth"
        write(dict(reversed(state.items())) if number % 2 else state, path)
        digests.add(read_weights(str(path), num_heads=2).digest())
    assert len(digests) == 1
    for changed in (state | {"norm.bias": state["norm.bias"] + 1e-7}, state | {"norm.bias": state["norm.weight"]}):
        torch.save(changed, tmp_path / "b.pth")
        assert read_weights(str(tmp_path / "b.pth"), num_heads=2).digest() not in digests


@pytest.mark.parametrize("format", ["hugging face", "export", "timm", "DINO"])
@pytest.mark.parametrize("layer_scale", [None, 1.0])
def test_the_digest_is_the_same_in_every_format(tmp_path: Path, format: str, layer_scale: float | None) -> None:
    """Some have no mask token."""
    state = dict(tiny.backbone(layer_scale=layer_scale).state_dict())
    torch.save(state, tmp_path / "a.pth")
    weights = read_weights(str(tmp_path / "a.pth"), num_heads=2)
    folder = tmp_path / "other"
    folder.mkdir()
    if format == "hugging face":
        write_hugging_face(folder, weights.backbone, weights.architecture)
    elif format == "export":
        write_backbone(folder / "backbone.safetensors", weights.backbone, weights.architecture)
    elif format == "timm":
        save_file(to_timm(weights.backbone, weights.architecture), folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    else:
        save_file({k: v for k, v in state.items() if k != "mask_token"}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    assert read_weights(str(folder), num_heads=2).digest() == weights.digest()


def test_a_header_whose_length_looks_like_text(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "a.safetensors"
    save_file(state, path, {"note": ""})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    wanted = int.from_bytes(b" {", "little")
    save_file(state, path, {"note": "x" * (wanted - length)})
    assert path.read_bytes()[:9] == b" {\0\0\0\0\0\0{"
    assert_same(read_weights(str(path), num_heads=2).backbone, state)


def shards(folder: Path, state: dict[str, Tensor], write: Callable[[Any, Path], None], index: str) -> Path:
    names = sorted(state)
    parts = {"part-1": names[::2], "part-2": names[1::2]}
    for file, mine in parts.items():
        write({name: state[name] for name in mine}, folder / file)
    weight_map = {name: file for file, mine in parts.items() for name in mine}
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return folder / index


@pytest.mark.parametrize("write", [torch.save, save_file])
def test_an_index_of_several_files(
    tmp_path: Path, state: dict[str, Tensor], write: Callable[[Any, Path], None]
) -> None:
    index = shards(tmp_path, state, write, "index.json")
    assert_same(read_weights(str(index), num_heads=2).backbone, state)
    (tmp_path / "part-2").rename(tmp_path / "elsewhere")
    assert refusal(index) == "part-2 is missing beside the index, which names 2 files"
    write({}, tmp_path / "part-2") if write is torch.save else save_file({"x": torch.zeros(1)}, tmp_path / "part-2")
    assert refusal(index).startswith("part-2: no tensor ")
    (tmp_path / "part-2").write_bytes(b"")
    assert refusal(index) == "part-2: the file is empty"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere"}}))
    assert "../elsewhere is missing beside the index" in refusal(index)
    index.write_text(json.dumps({"weight_map": {"a": index.name}}))
    assert refusal(index).startswith("index.json: not a kind of file that is known here")
    index.write_text("{}")
    assert refusal(index).startswith("a JSON file, but not the index")


def test_a_folder_of_shards_as_timm_publishes_it(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "model.safetensors")
    words = {"architecture": "vit", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}
    (tmp_path / "config.json").write_text(json.dumps(words))
    weights = read_weights(str(tmp_path), num_heads=2)
    assert_same(weights.backbone, state)
    assert weights.normalization == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


class Runs:
    """An object whose reading runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def dump(tree: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(tree))


@pytest.mark.parametrize("write", [torch.save, save_legacy, dump])
def test_code_in_a_pickle_is_not_run(
    tmp_path: Path, state: dict[str, Tensor], write: Callable[[Any, Path], None]
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "a.pth"
    write({**state, "extra": Runs(mark)}, path)
    wants = "a pickle of Python objects, which may" if write is dump else "it wants to run posix.system while being"
    assert refusal(path).startswith(f"refused: {wants}")
    assert refusal(path).endswith("expected a file of plain tensors (save it with torch.save(model.state_dict(), ...))")
    assert not mark.exists()
    if write is not save_legacy:
        with path.open("rb") as file:
            pickle.load(file) if write is dump else torch.load(file, weights_only=False)
        assert mark.exists()  # the file would have done it


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(tiny.backbone(), tmp_path / "a.pth")
    assert refusal(tmp_path / "a.pth").startswith(
        "refused: it wants to run dinotrain.models.vit.VisionTransformer while being read; expected"
    )


def test_code_in_a_checkpoint_folder_is_not_run(tmp_path: Path) -> None:
    from dinotrain.weights.checkpoint_tensors import CheckpointTensors

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Runs(tmp_path / "mark")))
    with pytest.raises(UserError, match=r"refused: \.metadata wants to run posix\.system"):
        CheckpointTensors(tmp_path)
    assert not (tmp_path / "mark").exists()


class _ByGetattr(pickle.Pickler):
    """Stores a value as a call of getattr, as early versions of Python 3.11 do with members of enumerations."""

    def __init__(self, file: Any, value: Any, holder: type, name: str) -> None:
        super().__init__(file)
        self.value, self.call = value, (getattr, (holder, name))

    def reducer_override(self, value: Any) -> Any:
        return self.call if value is self.value else NotImplemented


@pytest.mark.parametrize("name", ["TORCH_CONTIGUOUS_FORMAT", "__init__", "mro"])
def test_of_getattr_only_members_of_enumerations_are_read(tmp_path: Path, name: str) -> None:
    from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

    from dinotrain.weights.checkpoint_tensors import CheckpointTensors

    value = _MEM_FORMAT_ENCODING.TORCH_CONTIGUOUS_FORMAT
    with (tmp_path / ".metadata").open("wb") as file:
        _ByGetattr(file, value, _MEM_FORMAT_ENCODING, name).dump(Metadata(state_dict_metadata={}, planner_data=[value]))
    if name == value.name:
        assert len(CheckpointTensors(tmp_path)) == 0
    else:
        with pytest.raises(UserError, match=r"refused: \.metadata wants to run builtins\.getattr"):
            CheckpointTensors(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))  # pyright: ignore
    assert refusal(tmp_path / "a.pt").startswith("refused: a TorchScript program, which is code; expected")


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9, 0.9999])
def test_files_cut_off(
    tmp_path: Path, state: dict[str, Tensor], write: Callable[[Any, Path], None], kept: float
) -> None:
    path = tmp_path / "a"
    write(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert "cut off, damaged or of another kind" in refusal(path)


def test_changed_bytes_of_an_archive(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "a.pth"
    torch.save(state, path)
    content = path.read_bytes()
    for place in range(len(content) // 20, len(content) - 4096, len(content) // 10):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "cut off, damaged or of another kind" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>not found</html>", "a web page, not weights"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "not a kind of file that is known here"),
        (b"\x80\x04nonsense" + bytes(99), "refused: a pickle of Python objects"),
        (b'{"error": "not found"}', "a JSON file, but not the index"),
        (b"{nonsense", "a JSON file, but not the index"),
        ((1000).to_bytes(8, "little") + b'{"a": 3}', "cut off, damaged or of another kind"),
    ],
)
def test_other_things_than_weights(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert refusal(tmp_path / "a.pth").startswith(("can't be read: " + words, words))


def test_other_contents(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert refusal(path).startswith("a zip archive, but not one of torch.save")
    torch.save(torch.zeros(3), path)
    assert refusal(path) == "holds one Tensor, expected tensors by name"
    torch.save([torch.zeros(3)], path)
    assert refusal(path) == "holds one list, expected tensors by name"
    torch.save({0: 1, "epoch": 3}, path)
    assert refusal(path) == "holds no tensors by name"


def test_places_without_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    assert refusal(tmp_path / "nowhere") == "no such file or folder"
    for nothing in ("", " "):
        with pytest.raises(UserError, match=r"^nothing given; expected a path$"):
            read_weights(nothing)
    assert refusal(Path("~nobody-of-this-name/a.pth")) == "no such user"
    assert refusal(tmp_path).startswith("nothing that is known here; expected one run with a complete checkpoint, ")
    (tmp_path / "checkpoints" / "step_00000003.tmp").mkdir(parents=True)
    assert refusal(tmp_path).startswith("nothing that is known here")
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    assert refusal(tmp_path).startswith("config.json without weights: expected one of model.safetensors")
    (tmp_path / "config.json").write_text("[]")
    assert refusal(tmp_path).startswith("config.json can't be read")
    (tmp_path / "config.json").write_text("{")
    assert refusal(tmp_path).startswith("config.json can't be read")


def test_hugging_face_tensors_without_their_configuration(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"embeddings.patch_embeddings.projection.weight": torch.zeros(2, 3, 4, 4)}, path)
    assert refusal(path) == "a Hugging Face model without its config.json: give the folder that holds both"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "a.pth"
    torch.save(state, path)
    path.chmod(0)
    assert refusal(path) == "can't be opened (Permission denied)"
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_the_number_of_heads_must_be_known(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "a.pth")
    assert refusal(tmp_path / "a.pth").endswith("can't be told from 16 channels: give the key num_heads")
    assert "got 5, expected a divisor" in refusal(tmp_path / "a.pth", num_heads=5)
