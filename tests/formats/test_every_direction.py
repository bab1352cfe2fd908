"""Files with exactly the released tensors (names and number of blocks; narrow), from each format into each."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch
from torch import Tensor

from pixart.batch import Conditioning
from pixart.formats import Weights, load, read, write
from pixart.formats.writing import Format
from pixart.models.dit import PixArt

NARROW: dict[str, Any] = {"dim": 48, "depth": 28, "side": 4}
SUFFIX = {"snapshot": ".safetensors", "pixart": ".pth"}
DIFFERENT = ["bare", "snapshot", "diffusers", "diffusers-pipeline"]  # in what they know beside the tensors
WRITTEN: list[Format] = ["snapshot", "pixart", "diffusers", "diffusers-pipeline"]


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("autoencoder")
    AutoencoderKL(block_out_channels=[8], norm_num_groups=4, latent_channels=4).save_pretrained(folder)
    return str(folder)


def described(sizes: bool) -> dict[str, Any]:
    """Single-scale, or multi-scale at the one size at which diffusers' pipeline tells sizes."""
    return {**NARROW, "text_dim": 64, "sizes": sizes, **({"side": 64, "dim": 24} if sizes else {})}


Sources = tuple[dict[str, Tensor], dict[str, Path]]


def make(folder: Path, autoencoder: str, *, sizes: bool) -> Sources:
    """The tensors of a .pth, and those tensors in every form that is read."""
    content = foreign.fill(foreign.pixart_shapes(**described(sizes)), scale=2.0 if sizes else 1.0)
    assert len(content) == (445 if sizes else 437)
    torch.save(content, folder / "bare.pth")
    torch.save({"state_dict": content, "epoch": 1}, folder / "state_dict.pth")
    torch.save({"state_dict": content, "state_dict_ema": content}, folder / "state_dict_ema.pth")
    weights = read(folder / "bare.pth", num_heads=2)
    write(weights, folder / "a.safetensors", to="snapshot")
    write(weights, folder / "run" / "snapshots" / "step_00000001.safetensors", to="snapshot")
    write(weights, folder / "diffusers", to="diffusers")
    write(weights, folder / "pipe", to="diffusers-pipeline", text_encoder="shapes-t5", autoencoder=autoencoder)
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    theirs = PixArtTransformer2DModel.from_pretrained(folder / "diffusers")
    assert len(theirs.state_dict()) == (611 if sizes else 603)
    theirs.save_pretrained(folder / "sharded", max_shard_size="500KB")
    assert len(list((folder / "sharded").glob("*-of-*.safetensors"))) > 1
    places = {"snapshot": "a.safetensors", "run": "run", "diffusers-pipeline": "pipe", "diffusers": "diffusers"}
    names = {"bare": "bare.pth", "state_dict": "state_dict.pth", "state_dict_ema": "state_dict_ema.pth"}
    return content, {kind: folder / place for kind, place in {**places, **names, "sharded": "sharded"}.items()}


@pytest.fixture(scope="module")
def single(autoencoder: str, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return make(tmp_path_factory.mktemp("single"), autoencoder, sizes=False)


@pytest.fixture(scope="module")
def multi(autoencoder: str, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return make(tmp_path_factory.mktemp("multi"), autoencoder, sizes=True)


def heads(path: Path) -> int | None:
    return 2 if path.suffix == ".pth" else None


def holds_every_bit(weights: Weights, content: dict[str, Tensor]) -> None:
    wanted = {name: x for name, x in content.items() if name not in ("pos_embed", "y_embedder.y_embedding")}
    assert weights.tensors.keys() == wanted.keys()
    assert [name for name, tensor in wanted.items() if not torch.equal(weights.tensors[name], tensor)] == []


def go(sources: Sources, autoencoder: str, kind: str, to: Format, out: Path) -> None:
    """From one of the sources to a format, and read again."""
    content, paths = sources
    weights, out = read(paths[kind], num_heads=heads(paths[kind])), out.with_suffix(SUFFIX.get(to, ""))
    if weights.null_caption is None and to == "pixart":  # which diffusers cannot hold
        null = content["y_embedder.y_embedding"]
        weights = weights._replace(null_caption=null, null_kind="y_embedding")
    write(weights, out, to=to, text_encoder="shapes-t5", autoencoder=autoencoder, encoders="link")
    holds_every_bit(read(out, num_heads=heads(out)), content)
    if to == "pixart":
        held = torch.load(out)["state_dict"]
        assert held.keys() == content.keys()
        assert [name for name, tensor in content.items() if not torch.equal(held[name], tensor)] == []


@pytest.mark.parametrize(("kind", "to"), list(product(DIFFERENT, WRITTEN)))
def test_each_source_goes_to_each_of_4_formats_with_every_bit(single, autoencoder, tmp_path, kind, to):
    go(single, autoencoder, kind, to, tmp_path / "out")


@pytest.mark.parametrize("to", WRITTEN)
def test_multi_scale_weights_go_to_each_of_4_formats_with_every_bit(multi, autoencoder, tmp_path, to):
    go(multi, autoencoder, "bare", to, tmp_path / "out")


@pytest.mark.parametrize("scales", ["single", "multi"])
def test_each_of_8_sources_holds_every_bit_and_loads_to_one_model(scales, request):
    content, paths = request.getfixturevalue(scales)
    models = {"from_pretrained": PixArt.from_pretrained(paths["snapshot"])}
    for kind, path in paths.items():
        holds_every_bit(read(path, num_heads=heads(path)), content)
        models[kind] = load(path, num_heads=heads(path))
    x_t, t, size = torch.randn(2, 4, 8, 12), torch.tensor([7, 900]), torch.tensor([[64.0, 96.0]] * 2)
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    cond = Conditioning(torch.randn(2, 5, 64), mask, size, size[:, :1] / size[:, 1:])
    with torch.no_grad():
        outputs = {kind: model(x_t, t, cond) for kind, model in models.items()}
    assert len(outputs) == 9
    assert outputs["bare"].abs().max() > 0.1
    assert [kind for kind, output in outputs.items() if not torch.equal(output, outputs["bare"])] == []


@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: {"ema": x, "model": {}, "opt": {}}], ids=["bare", "ema"])
def test_the_292_tensors_of_a_dit_go_to_a_snapshot_with_every_bit_and_nowhere_else(
    tmp_path: Path, wrapped: Callable[[Any], Any]
) -> None:
    content = foreign.fill(foreign.dit_shapes(**NARROW, classes=5))
    assert len(content) == 292
    torch.save(wrapped(content), tmp_path / "dit.pt")
    weights = read(tmp_path / "dit.pt", num_heads=4)
    write(weights, tmp_path / "a.safetensors", to="snapshot")
    again = read(tmp_path / "a.safetensors")
    assert again.licence == "CC-BY-NC-4.0"
    assert again.tensors.keys() == content.keys() - {"pos_embed"}
    assert all(torch.equal(again.tensors[name], content[name]) for name in again.tensors)
    for source, to in product([weights, again], WRITTEN[1:]):
        with pytest.raises(ValueError, match=f"to={to} cannot hold a model of labels"):
            write(source, tmp_path / "out", to=to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "dit.pt"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_as_it_is_on_the_way_to_others_and_is_widened_exactly_in_a_snapshot(tmp_path, dtype):
    shapes = foreign.pixart_shapes(dim=48, depth=2, side=4, text_dim=20, rows=7)
    content = {name: tensor.to(dtype) for name, tensor in foreign.fill(shapes).items()}
    torch.save(content, tmp_path / "a.pth")
    weights = read(tmp_path / "a.pth", num_heads=4)
    write(weights, tmp_path / "d", to="diffusers")
    there = read(tmp_path / "d")._replace(null_caption=weights.null_caption, null_kind="y_embedding")
    write(there, tmp_path / "b.pth", to="pixart")
    write(there, tmp_path / "b.safetensors", to="snapshot")
    back, wide = torch.load(tmp_path / "b.pth")["state_dict"], read(tmp_path / "b.safetensors")
    for name, tensor in weights.tensors.items():
        assert back[name].dtype == there.tensors[name].dtype == dtype
        assert torch.equal(back[name], tensor)
        assert wide.tensors[name].dtype == torch.float32
        assert torch.equal(wide.tensors[name], tensor.float())
