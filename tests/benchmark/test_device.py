"""A device is emptied of what nobody holds, and of graphs, before something else is measured on it."""

import weakref

import torch

from pixart.benchmark.agreement import tried
from pixart.benchmark.device import forget_compiled
from pixart.models import compiled
from pixart.models.blocks import PixArtBlock


def test_a_second_size_is_compiled_for_itself_after_a_fresh_start_and_for_any_size_without():
    symbols: list[bool] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[object]) -> torch.fx.GraphModule:
        symbols.append(any(isinstance(x, torch.SymInt) for x in inputs))
        return graph

    doubled = torch.compile(lambda x: x * 2, backend=backend)
    for size in (3, 5):
        forget_compiled()
        doubled(torch.ones(size))
    doubled(torch.ones(7))
    assert symbols == [False, False, True]


def test_blocks_are_compiled_again_after_1_fresh_start():
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    made = []
    for _ in range(2):
        forget_compiled()
        block = PixArtBlock(
            *(16, 2),
            mlp_ratio=2.0,
            text=False,
            shared_modulation=False,
            attention="sdpa",
            fp32_attention=False,
            checkpointing="none",
        )
        compiled.compile_blocks(torch.nn.Sequential(block), "cpu", backend=backend)
        made.append(block.run)
        block(torch.ones(2, 4, 16), torch.ones(2, 16), None)
    assert made[0] is made[1]
    assert len(graphs) == 2


def test_a_contender_that_does_not_fit_is_released_and_nothing_that_it_made_is_left_when_the_next_is_tried():
    class Activation:
        pass

    made: list[weakref.ref[Activation]] = []
    released: list[str] = []
    said: list[str] = []

    def once(name: str) -> tuple[torch.Tensor]:
        if name == "small":
            assert made[0]() is None
            assert released == ["large"]
            return (torch.ones(2),)
        activation = Activation()
        made.append(weakref.ref(activation))
        raise torch.OutOfMemoryError

    contenders = {name: name for name in ("large", "small")}
    told = {"tolerances": [1e-4], "device": torch.device("cpu"), "say": said.append, "release": released.append}
    assert [name for name, _ in tried(contenders, once, **told)] == ["small"]
    assert said == ["large does not fit the memory of this device and is left out: take a smaller batch"]
