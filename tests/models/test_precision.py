"""The borders of autocast: which module computes in bfloat16 and which in float32."""

from fnmatch import fnmatch

import pytest
import torch
from torch import Tensor, nn

from pixart.batch import Conditioning
from pixart.models.dit import PixArt
from pixart.models.precision import halve, in_tf32

# All that autocast reaches; docs/precision.md lists the same.
LOW = (
    "y_embedder.y_proj*", "blocks.*.attn", "blocks.*.attn.*", "blocks.*.cross_attn", "blocks.*.cross_attn.*",
    "blocks.*.mlp", "blocks.*.mlp.*",
)  # fmt: skip
CONDITIONS = ("x_embedder", "t_embedder", "csize_embedder", "ar_embedder", "t_block")


def outputs(model: PixArt, *inputs: object) -> dict[str, Tensor]:
    """What each module of ``model`` returns when it runs on ``inputs``, by name."""
    found: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda _module, _inputs, output: found.__setitem__(name, output)

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    model(*inputs)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("adaln", ["single", "per_block"])
def test_bfloat16_is_inside_the_blocks_and_the_caption_and_nowhere_else(small, randomise, captioned, x_t, t, adaln):
    model = randomise(small(size_conditioning=True, adaln=adaln), std=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outputs(model, x_t, t, captioned)
    assert len(found) > 50
    for name, output in found.items():
        low = any(fnmatch(name, pattern) for pattern in LOW)
        assert output.dtype == (torch.bfloat16 if low else torch.float32), name


@pytest.mark.parametrize("adaln", ["single", "per_block"])
def test_the_residual_stream_and_modulations_enter_every_block_in_float32(small, captioned, x_t, t, adaln):
    model, entered = small(adaln=adaln), []
    for block in [*model.blocks, model.final_layer]:
        block.register_forward_pre_hook(lambda _, inputs: entered.append([getattr(x, "y", x).dtype for x in inputs]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x_t, t, captioned)
    stream = [torch.float32, torch.float32]
    assert entered == [[*stream, torch.bfloat16], [*stream, torch.bfloat16], stream]


def test_latents_time_and_size_are_embedded_under_autocast_to_the_bit_as_without(small, randomise, captioned, x_t, t):
    model = randomise(small(size_conditioning=True), std=0.05)
    exact = outputs(model, x_t, t, captioned)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outputs(model, x_t, t, captioned)
    assert all(torch.equal(found[name], exact[name]) for name in CONDITIONS)
    assert 0 < (found[""] - exact[""]).abs().max() < 0.05 * exact[""].abs().max()


@pytest.mark.parametrize("adaln", ["single", "per_block"])
def test_every_modulation_is_the_same_under_autocast_to_the_bit(small, randomise, captioned, x_t, t, adaln):
    model, seen = randomise(small(adaln=adaln)), []

    def spy(module: nn.Module) -> None:
        plain = module.modulation
        module.modulation = lambda vector: seen.append(plain(vector)) or seen[-1]

    for module in [*model.blocks, model.final_layer]:
        spy(module)
    model(x_t, t, captioned)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x_t, t, captioned)
    for exact, found in zip(seen[:3], seen[3:], strict=True):
        assert all(torch.equal(a, b) and b.dtype == torch.float32 for a, b in zip(exact, found, strict=True))


def test_the_last_layer_adds_no_rounding_of_its_own(small, randomise, x_t, t):
    """Labels and no text: with the blocks' insides silenced, what is left is float32 from end to end."""
    model = randomise(small(text_dim=None, num_classes=3))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.proj.weight.zero_()
            block.attn.proj.bias.zero_()
            block.mlp.fc2.weight.zero_()
            block.mlp.fc2.bias.zero_()
    cond = Conditioning(label=torch.tensor([0, 2]))
    exact = model(x_t, t, cond)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(x_t, t, cond), exact)


def test_a_model_cast_to_bfloat16_runs_on_float32_input_and_returns_float32(small, randomise, captioned, x_t, t):
    model = randomise(small(size_conditioning=True), std=0.05)
    exact = model(x_t, t, captioned)
    output = model.to(torch.bfloat16)(x_t, t, captioned)
    assert output.dtype == torch.float32
    assert (output - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("adaln", ["single", "per_block"])
def test_weights_kept_in_half_precision_give_what_autocast_gives_to_the_bit(small, randomise, captioned, x_t, t, adaln):
    model = randomise(small(adaln=adaln), std=0.05)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(x_t, t, captioned)
        halve(model, torch.bfloat16)
        assert torch.equal(model(x_t, t, captioned), expected)
    halved = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.bfloat16}
    assert len(halved) == 4 + 2 * 14  # weights and biases: 2 layers of the caption, 7 of each block
    assert not [name for name in halved if "adaLN" in name or "embedder.mlp" in name]


def test_tf32_is_as_before_after_1_error():
    def switches() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def fails() -> None:
        with in_tf32(not before[0]):
            inside.append(switches())
            raise KeyError

    before, inside = switches(), []
    with pytest.raises(KeyError):
        fails()
    assert inside == [(not before[0],) * 2]
    assert switches() == before
