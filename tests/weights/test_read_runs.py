"""Runs and checkpoints of this trainer, by any number of processes, and exported backbones."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from spawn import run_processes
from stored_networks import assert_same, build, build_head, prefixed
from torch import Tensor

from dinotrain.distributed.parallelize import device_mesh, materialize, parallelize
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.models.networks import Networks
from dinotrain.optim.ema import MovingAverage
from dinotrain.training.checkpoint import Checkpointer
from dinotrain.training.state import TrainState
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.read import read_weights
from dinotrain.weights.runs import write_backbone

MODEL = {
    "_target_": "dinotrain.models.vit.VisionTransformer",
    "_partial_": True,
    "image_size": 16,
    "patch_size": 4,
    "channels": 3,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "ffn": "mlp",
    "ffn_ratio": 4.0,
    "num_registers": 2,
    "layer_scale": 1e-5,
    "drop_path": 0.3,
    "position_resize": None,
    "init_std": 0.02,
    "position_std": 0.02,
    "norm_eps": 1e-5,
}
CONFIG = {"model": MODEL, "data": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
REGISTERS: dict[str, Any] = {"num_registers": 2}


def plain(seed: int) -> Networks:
    networks = tiny.networks(**REGISTERS)
    networks.initialize(seed)
    return networks


def sharded(seed: int) -> Networks:
    networks = tiny.networks(meta=True, **REGISTERS)
    mesh = device_mesh("cpu", dist.get_world_size(), None)
    parallelize(networks, mesh=mesh, precision="fp32", reshard_after_forward=True)
    materialize(networks, torch.device("cpu"))
    networks.initialize(seed)
    return networks


def write_run(rank: int, folder: str, ema_name: Any) -> None:
    """The checkpoints of steps 4 and 8; the student of each begins with the step as its seed."""
    world = World(rank, dist.get_world_size(), rank, dist.get_world_size(), torch.device("cpu"), dist.group.WORLD)
    checkpointer = Checkpointer(Path(folder, "checkpoints"), world, keep_last=2, config=yaml.safe_dump(CONFIG))
    for step in (4, 8):
        student, average = sharded(step), sharded(step + 1)
        state = TrainState(
            student=student,
            ema=average,
            method=torch.nn.Module(),
            optimizer=torch.optim.SGD(student.parameters()),
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            average=MovingAverage(average, student),
            seed=0,
            ema_name=ema_name,
            step=step,
        )
        checkpointer.save(state)
        checkpointer.wait()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of self-distillation by one process, a distilled one by two."""
    folders = {}
    for count, ema_name in ((1, "teacher"), (2, "ema")):
        folders[ema_name] = tmp_path_factory.mktemp(ema_name)
        run_processes(count, write_run, str(folders[ema_name]), ema_name)
    return folders


def expect(path: Path, seed: int, **options: Any) -> str:
    """Bit-equal to networks that begin with a seed; what it is called."""
    weights, expected = read_weights(str(path), **options), plain(seed)
    assert_same(weights.backbone, expected.backbone.state_dict())
    assert set(weights.heads) == {"dino_head", "ibot_head"}
    for name, head in weights.heads.items():
        assert_same(head, expected.get_submodule(name).state_dict())
    assert weights.architecture == architecture()
    assert weights.normalization == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    return weights.layout


def architecture() -> Architecture:
    found = Architecture.of_tensors(dict(plain(0).backbone.state_dict()), num_heads=2, norm_eps=1e-5)
    assert found.layer_scale
    assert found.position_resize == "size"
    return found


def test_a_run_by_its_newest_checkpoint(runs: dict[str, Path]) -> None:
    assert expect(runs["teacher"], 9) == "run of this trainer, teacher at step 8"
    assert expect(runs["ema"], 9) == "run of this trainer, EMA of the student at step 8"
    assert expect(runs["teacher"] / "checkpoints", 9) == "run of this trainer, teacher at step 8"


def test_the_folder_of_several_runs(runs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("vits14", "vitb14"):
        (tmp_path / name).symlink_to(runs["ema"])
    with pytest.raises(UserError, match=r"this folder holds several runs \(vitb14, vits14\); expected one run"):
        read_weights(str(tmp_path))


def test_a_checkpoint_that_is_removed_meanwhile(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "step_00000008"
    shutil.copytree(runs["ema"] / "checkpoints" / folder.name, folder)
    weights = read_weights(str(folder))
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"step_00000008: ema\.backbone\.norm\.bias can't be read any more"):
        weights.backbone["norm.bias"]


@pytest.mark.parametrize("name", ["teacher", "ema"])
def test_a_checkpoint_by_its_folder(runs: dict[str, Path], name: str) -> None:
    assert expect(runs[name] / "checkpoints" / "step_00000004", 5).endswith("at step 4")


def test_networks_filled_from_a_checkpoint(runs: dict[str, Path]) -> None:
    weights, expected = read_weights(str(runs["ema"])), plain(9)
    assert_same(build(weights).state_dict(), expected.backbone.state_dict())
    assert_same(build_head(weights, "ibot_head").state_dict(), expected.get_submodule("ibot_head").state_dict())


@pytest.mark.parametrize("name", ["teacher", "ema"])
def test_parts(runs: dict[str, Path], name: str) -> None:
    assert expect(runs[name], 8, part="student") == "run of this trainer, student at step 8"
    expect(runs[name], 9, part=name)
    absent = {"teacher": "ema", "ema": "teacher"}[name]
    with pytest.raises(UserError, match=f"no {absent} here: there is {name}, student"):
        read_weights(str(runs[name]), part=absent)


def test_heads_that_contradict_the_run(runs: dict[str, Path]) -> None:
    expect(runs["ema"], 9, num_heads=2)
    with pytest.raises(UserError, match="num_heads: got 4, but these weights say of themselves that they have 2"):
        read_weights(str(runs["ema"]), num_heads=4)


def test_the_digest_does_not_depend_on_the_processes(runs: dict[str, Path], tmp_path: Path) -> None:
    whole = {read_weights(str(folder)).digest() for folder in runs.values()}
    assert len(whole) == 1
    weights = read_weights(str(runs["ema"]))
    write_backbone(tmp_path / "a.safetensors", weights.backbone, weights.architecture, weights.normalization)
    torch.save(dict(weights.backbone), tmp_path / "a.pth")
    alone = {read_weights(str(tmp_path / name), num_heads=2).digest() for name in ("a.safetensors", "a.pth")}
    assert alone == {weights.without_heads().digest()}
    assert not alone & whole


def test_reading_within_a_group_is_each_process_for_itself(runs: dict[str, Path]) -> None:
    for digest in run_processes(2, _digest_on_rank_one, str(runs["ema"])):
        assert digest in (None, read_weights(str(runs["ema"])).digest())


def _digest_on_rank_one(rank: int, folder: str) -> str | None:
    return read_weights(folder).digest() if rank == 1 else None


def test_damage_is_found(runs: dict[str, Path], tmp_path: Path) -> None:
    def damaged(name: str, content: bytes | None, words: str) -> None:
        folder = tmp_path / "copy"
        shutil.copytree(runs["ema"], folder)
        path = folder / "checkpoints" / "step_00000008" / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_weights(str(folder))
        text = str(error.value)
        assert text.startswith(f"{folder}: ")
        assert words in text
        assert "\n" not in text
        shutil.rmtree(folder)

    newest = runs["ema"] / "checkpoints" / "step_00000008"
    stored = (newest / "__1_0.distcp").read_bytes()
    middle = len(stored) // 2
    flipped = stored[:middle] + bytes([stored[middle] ^ 1]) + stored[middle + 1 :]
    for content in (None, b"", stored[:middle], flipped):
        damaged("__1_0.distcp", content, "__1_0.distcp is missing, or changed since it was written")
    damaged("config.yaml", b"model: 3", "config.yaml is missing, or changed")
    damaged(".metadata", b"", ".metadata is missing, or changed")
    damaged("manifest.json", b"{", "manifest.json can't be read")
    damaged("manifest.json", b'{"format": 99}', "manifest.json can't be read, or another version")


def hand_written(folder: Path, tensors: Mapping[str, Tensor], config: Any = CONFIG) -> Path:
    """A checkpoint of these tensors, complete with its manifest."""
    with pytest.warns(UserWarning, match="torch.distributed is disabled"):
        dcp.save(dict(tensors), checkpoint_id=folder, no_dist=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    files = {name: {"bytes": len(content), "crc32": zlib.crc32(content)} for name, content in contents.items()}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "numbers": {"step": 3}, "files": files}))
    return folder


def networks_of(part: str) -> dict[str, Tensor]:
    return prefixed(f"{part}.", plain(0).state_dict())


def test_projections_of_feature_distillation_are_left_out(tmp_path: Path) -> None:
    backbone = prefixed("ema.backbone.", plain(0).backbone.state_dict())
    extra = {"ema.cls_projection.weight": torch.zeros(3), "ema.patch_projection.weight": torch.zeros(3)}
    weights = read_weights(str(hand_written(tmp_path / "step_3", {**backbone, **extra})))
    assert weights.heads == {}
    assert_same(weights.backbone, plain(0).backbone.state_dict())


def test_a_configuration_of_another_network(tmp_path: Path) -> None:
    folder = hand_written(tmp_path / "a", networks_of("teacher"), CONFIG | {"model": MODEL | {"depth": 3}})
    with pytest.raises(UserError, match=r"not exactly a ViT of 3 blocks x 16 channels.*missing: blocks\.\*\.norm1"):
        read_weights(str(folder))
    folder = hand_written(tmp_path / "b", networks_of("teacher"), {"model": {"depth": 3}})
    with pytest.raises(UserError, match=r"config\.yaml does not describe a network: KeyError"):
        read_weights(str(folder))
    folder = hand_written(tmp_path / "c", networks_of("teacher"), {"seed": 3})
    with pytest.raises(UserError, match=r"config\.yaml says nothing of the model"):
        read_weights(str(folder))
    folder = hand_written(tmp_path / "d", networks_of("other"))
    with pytest.raises(UserError, match="a checkpoint without networks"):
        read_weights(str(folder))


def test_keys_that_older_configurations_lack(tmp_path: Path) -> None:
    model = {key: value for key, value in MODEL.items() if key not in ("norm_eps", "channels", "position_resize")}
    weights = read_weights(str(hand_written(tmp_path / "a", networks_of("teacher"), {"model": model})))
    assert weights.architecture.norm_eps == 1e-6
    assert weights.architecture.channels == 3
    assert weights.normalization is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_exported_backbone(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {name: value.to(dtype) for name, value in plain(0).backbone.state_dict().items()}
    known = Architecture.of_tensors(stored, num_heads=4, position_resize="scale", norm_eps=1e-4)
    for normalization in (None, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))):
        write_backbone(tmp_path / "backbone.safetensors", stored, known, normalization)
        for path in (tmp_path, tmp_path / "backbone.safetensors"):
            weights = read_weights(str(path))
            assert_same(weights.backbone, stored)
            assert weights.architecture == known
            assert weights.normalization == normalization
            assert weights.layout == "exported backbone of this trainer"
    assert [path.name for path in tmp_path.iterdir()] == ["backbone.safetensors"]
    with pytest.raises(UserError, match="no teacher here: these are weights of one network alone"):
        read_weights(str(tmp_path), part="teacher")
    with pytest.raises(UserError, match="num_heads: got 2, but these weights say"):
        read_weights(str(tmp_path), num_heads=2)


def test_a_failed_export_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, stored = tmp_path / "backbone.safetensors", dict(plain(0).backbone.state_dict())
    known = Architecture.of_tensors(stored, num_heads=4)
    write_backbone(path, stored, known)
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write_backbone(path, _Failing(stored), known)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["backbone.safetensors"]


class _Failing(dict):
    def items(self) -> Any:
        raise KeyError("no more")


def test_an_export_that_says_what_can_not_be(tmp_path: Path) -> None:
    path, stored = tmp_path / "a.safetensors", dict(plain(0).backbone.state_dict())
    known = Architecture.of_tensors(stored, num_heads=4)
    write_backbone(path, stored, known)
    with safe_open(path, "pt") as file:
        words = file.metadata()

    def refused(match: str, **changes: Any) -> None:
        description = json.dumps(json.loads(words["architecture"]) | changes)
        save_file(stored, path, words | {"architecture": description})
        with pytest.raises(UserError, match=match):
            read_weights(str(path))

    refused("its description is damaged, or from a newer version", rope=3)
    refused("missing: blocks", depth=3)
    refused("num_heads: got 3, expected a divisor", num_heads=3)
    save_file(stored, path, words | {"architecture": "{"})
    with pytest.raises(UserError, match="its description is damaged"):
        read_weights(str(path))


def test_an_export_with_a_flipped_bit(tmp_path: Path) -> None:
    stored = dict(plain(3).backbone.named_parameters())
    path = tmp_path / "backbone.safetensors"
    write_backbone(path, stored, architecture())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"backbone\.safetensors: damaged: its numbers are not those"):
        read_weights(str(path))
