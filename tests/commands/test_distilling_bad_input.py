"""What is wrong with a teacher, students, or weights to begin with is said in one line, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from real_runs import DISTILLED, FEATURES, TEACHER, refused

from dinotrain.weights.read import read_weights


class Code:
    """What a pickle may hold: something that is called when it is read."""

    def __reduce__(self) -> tuple:
        return print, ("code was run",)


def truncated(folder: Path) -> None:
    torch.save(tiny.backbone(embed_dim=64, num_heads=1).state_dict(), folder / "truncated.pth")
    content = (folder / "truncated.pth").read_bytes()
    (folder / "truncated.pth").write_bytes(content[: len(content) // 2])


def flipped(folder: Path) -> None:
    torch.save(tiny.backbone(embed_dim=64, num_heads=1).state_dict(), folder / "flipped.pth")
    content = bytearray((folder / "flipped.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "flipped.pth").write_bytes(content)


@pytest.fixture(scope="module")
def files(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files by name; "run" is a pre-trained run."""
    folder = tmp_path_factory.mktemp("files")
    truncated(folder)
    flipped(folder)
    torch.save({"model": Code()}, folder / "code.pth")
    torch.save({"step": 3}, folder / "numbers.pth")
    torch.save(torch.zeros(3), folder / "tensor.pth")
    torch.save(dict(read_weights(str(teacher)).backbone), folder / "backbone.pth")
    torch.save(tiny.backbone(embed_dim=48, num_heads=3).state_dict(), folder / "odd.pth")
    torch.save(
        tiny.backbone(image_size=24, patch_size=6, embed_dim=64, num_heads=1, num_registers=4).state_dict(),
        folder / "registers.pth",
    )
    broken = {name: value.clone() for name, value in read_weights(str(teacher)).backbone.items()}
    broken["norm.bias"][0] = float("nan")
    torch.save(broken, folder / "nan.pth")
    del broken["blocks.1.attn.qkv.weight"]
    torch.save(broken, folder / "lacking.pth")
    (folder / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 346378731\n")
    (folder / "page.pth").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (folder / "empty.pth").touch()
    (folder / "folder").mkdir()
    (folder / "words.pth").write_text("weights of a teacher")
    found = {path.stem: path for path in folder.iterdir()}
    return found | {"run": teacher, "missing": folder / "missing.pth"}


UNREADABLE = {
    "missing": ["no such file or folder"],
    "truncated": ["can't be read: cut off, damaged"],
    "flipped": ["can't be read: cut off, damaged"],
    "code": ["refused: it wants to run", "print", "expected a file of plain tensors"],
    "pointer": ["a Git LFS pointer, not the weights themselves", "git lfs pull"],
    "page": ["a web page, not weights"],
    "empty": ["the file is empty"],
    "folder": ["expected one run with a complete checkpoint, a checkpoint, or a Hugging Face folder"],
    "words": ["not a kind of file that is known here", ".safetensors"],
    "numbers": ["no tensors"],
    "tensor": ["expected tensors by name"],
    "lacking": ["missing: blocks.*.attn.qkv.weight"],
    "nan": ["norm.bias holds numbers that are not finite"],
}


@pytest.mark.parametrize("key", ["teacher.weights", "train.start_from"])
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_used(name: str, key: str, files: dict[str, Path], tmp_path: Path) -> None:
    experiment = FEATURES if key == "teacher.weights" else TEACHER
    line = refused(*experiment, f"{key}={files[name]}", f"output_dir={tmp_path / 'run'}")
    assert line.startswith(f"error: {key}: {files[name]}: ")
    for words in UNREADABLE[name]:
        assert words in line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


MASKS = "{_target_: dinotrain.data.masks.MaskSampler, _partial_: true, probability: 0.5, ratio_min: 0.1, "
MASKS += "ratio_max: 0.5, group: 8}"
STUDENT = "model: vit_tiny, image_size: 24, patch_size: 6, num_heads: 1"

Case = tuple[tuple[str, ...], str, list[str]]
"""Experiment; other words, with {names} of files; what must be in the line."""

MISTAKES: dict[str, Case] = {
    "no teacher": (DISTILLED, "", ["teacher.weights is missing", "teacher.weights=runs/"]),
    "null for a teacher": (
        DISTILLED,
        "teacher.weights=null",
        ["teacher.weights is missing", "run, checkpoint or file"],
    ),
    "no teacher of features": (FEATURES, "", ["teacher.weights is missing", "teacher.weights=runs/"]),
    "no heads": (
        DISTILLED,
        "teacher.weights={backbone}",
        ["teacher.weights: {backbone} (DINOv2 backbone) has no heads", "+experiment=distill_features_"],
    ),
    "a teacher for a method without": (
        TEACHER,
        "teacher.weights={run}",
        ["teacher.weights: this method has no frozen teacher", "+experiment=distill_", "train.start_from"],
    ),
    "wider than the teacher": (
        DISTILLED,
        "teacher.weights={run} model.embed_dim=128",
        ["teacher.weights: the teacher has 64 channels, its student 128", "model="],
    ),
    "wider than the teacher's features": (
        FEATURES,
        "teacher.weights={backbone} model.embed_dim=66",
        ["teacher.weights: the teacher has 64 channels, its student 66"],
    ),
    "other prototypes": (
        DISTILLED,
        "teacher.weights={run} method.ibot_head.num_prototypes=40",
        ["method.ibot_head.num_prototypes: got 40, but the teacher has 48", "expected null or that number"],
    ),
    "no head where the teacher has one": (
        DISTILLED,
        "teacher.weights={run} method.ibot_head=null",
        ["method.ibot_head: null, but the teacher has this head"],
    ),
    "another grid": (
        DISTILLED,
        "teacher.weights={run} teacher.size=36",
        [
            "teacher.size: 36 px are 6x6 patches of the teacher's 6 px, but the student has 4x4",
            "expected 24 px, or null",
        ],
    ),
    "no multiple": (
        FEATURES,
        "teacher.weights={run} teacher.size=25",
        ["teacher.size: 25 px is not a multiple of the teacher's patches of 6 px; 24 would be"],
    ),
    "size 0": (FEATURES, "teacher.weights={run} teacher.size=0", ["teacher.size: got 0, expected at least 1"]),
    "local crops with features": (
        FEATURES,
        "teacher.weights={run} crops.num_local=2",
        ["crops.num_local: got 2", "expected 0"],
    ),
    "masks": (
        DISTILLED,
        f"teacher.weights={{run}} method.masks={MASKS.replace(' ', '')}",
        ["method.masks", "expected null"],
    ),
    "heads of the attention": (
        DISTILLED,
        "teacher.weights={run} teacher.num_heads=4",
        ["teacher.weights: {run}: num_heads: got 4, but these weights say of themselves that they have 1"],
    ),
    "heads that don't divide": (
        FEATURES,
        "teacher.weights={backbone} teacher.num_heads=5",
        ["num_heads: got 5, expected a divisor of the 64 channels"],
    ),
    "heads that can't be told": (FEATURES, "teacher.weights={odd}", ["from 48 channels", "num_heads"]),
    "a part that is not there": (
        DISTILLED,
        "teacher.weights={run} teacher.part=ema",
        ["teacher.weights: {run}: no ema here: there is teacher, student"],
    ),
    "no part at all": (
        FEATURES,
        "teacher.weights={backbone} teacher.part=teacher",
        ["teacher.weights: {backbone}: no teacher here"],
    ),
    "not a part": (DISTILLED, "teacher.weights={run} teacher.part=best", ["teacher.part: got 'best'", "teacher, ema"]),
    "other attention heads": (
        TEACHER,
        "train.start_from={run} model.num_heads=2",
        ["has 1 attention heads, model.num_heads is 2; set model.num_heads=1"],
    ),
    "a path for the group": (DISTILLED, "teacher={run}", ["teacher: got", "did you mean teacher.weights=...?"]),
    "not the group": (DISTILLED, "weights={run}", ["did you mean teacher.weights", "train.start_from"]),
    "unknown key": (DISTILLED, "teacher.wights={run}", ["teacher.wights", "did you mean teacher.weights"]),
    "students without a teacher": (TEACHER, "students=[vit_tiny]", ["students: several need a frozen teacher"]),
    "a model's key for several": (
        DISTILLED,
        "teacher.weights={run} students=[{STUDENT}] model.ffn_ratio=3.0",
        ["model.ffn_ratio=3.0: there are several students", "students=[{model:"],
    ),
    "unknown student": (DISTILLED, "teacher.weights={run} students=[vit_tny]", ["students[0]: got 'vit_tny'; did you"]),
    "student twice": (
        DISTILLED,
        "teacher.weights={run} students=[{STUDENT},{STUDENT}]",
        ["students[1]: a second vit_tiny; give one of them another name"],
    ),
    "no list": (DISTILLED, "teacher.weights={run} students=vits14", ["students: got 'vits14', expected a list"]),
    "empty list": (DISTILLED, "teacher.weights={run} students=[]", ["students: got [], expected a list"]),
    "no model": (DISTILLED, "teacher.weights={run} students=[{embed_dim:16}]", ["students[0]: got", "expected a list"]),
    "unknown key of a student": (
        DISTILLED,
        "teacher.weights={run} students=[{model:vit_tiny,widht:16}]",
        ["students[0].widht: no such key of the model"],
    ),
    "name of a student": (
        DISTILLED,
        "teacher.weights={run} students=[{model:vit_tiny,name:../a}]",
        ["students[0].name: got '../a'"],
    ),
    "value of a student": (
        DISTILLED,
        "teacher.weights={run} students=[{model:vit_tiny,embed_dim:big}]",
        ["embed_dim: got 'big', expected a whole number"],
    ),
    "student wider than the teacher": (
        DISTILLED,
        "teacher.weights={run} students=[{STUDENT,embed_dim:16},{STUDENT,embed_dim:80,name:wide}]",
        ["students: wide: teacher.weights: the teacher has 64 channels, its student 80"],
    ),
    "student whose heads don't divide": (
        DISTILLED,
        "teacher.weights={run} students=[{STUDENT,embed_dim:16},{STUDENT,embed_dim:16,num_heads:3,name:odd}]",
        ["students: odd:", "num_heads", "3"],
    ),
    "students of different grids": (
        DISTILLED,
        "teacher.weights={run} students=[{STUDENT,embed_dim:16},{STUDENT,embed_dim:16,patch_size:4,name:fine}]",
        ["students: their patches differ"],
    ),
    "students that begin with weights": (
        DISTILLED,
        "teacher.weights={run} train.start_from={run} students=[vit_tiny]",
        ["train.start_from: got {run}, but there are several students; expected null"],
    ),
    "registers": (
        TEACHER,
        "train.start_from={registers}",
        ["train.start_from: {registers}: backbone does not fit", "weights with 4 registers; set model.num_registers=4"],
    ),
    "depth": (TEACHER, "train.start_from={run} model.depth=3", ["train.start_from: {run}: backbone", "model.depth=2"]),
    "width": (
        TEACHER,
        "train.start_from={backbone} model.embed_dim=32",
        ["train.start_from: {backbone}: backbone", "model.embed_dim=64"],
    ),
    "patches": (
        TEACHER,
        "train.start_from={backbone} model.patch_size=4",
        ["the patch size of these weights is 6; set model.patch_size=6"],
    ),
    "other heads": (
        TEACHER,
        "train.start_from={run} method.dino_head.num_prototypes=41",
        ["train.start_from: {run}: dino_head", "method.dino_head.num_prototypes=40", "train.new_heads=true"],
    ),
    "one head of two": (
        TEACHER,
        "train.start_from={run} method.ibot_head=null",
        ["train.start_from: {run} has dino_head and ibot_head, this run dino_head", "train.new_heads=true"],
    ),
    "a part to begin with": (
        TEACHER,
        "train.start_from={run} train.part=ema",
        ["train.start_from: {run}: no ema here"],
    ),
    "frozen for ever": (
        TEACHER,
        "train.start_from={backbone} train.freeze_backbone=6",
        ["train.freeze_backbone: got 6", "less than optim.steps = 6"],
    ),
    "frozen for less than nothing": (
        TEACHER,
        "train.start_from={backbone} train.freeze_backbone=-1",
        ["train.freeze_backbone: got -1"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_clear_line(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    experiment, words, expected = MISTAKES[name]

    def filled(text: str) -> str:
        for key, path in files.items():
            text = text.replace(f"{{{key}}}", str(path))
        return text.replace("STUDENT", STUDENT.replace(" ", ""))

    line = refused(*experiment, *filled(words).split(), f"output_dir={tmp_path / 'run'}")
    for text in expected:
        assert filled(text) in line
    assert not list(tmp_path.rglob("metrics.jsonl")), "a mistake must not begin a run"
