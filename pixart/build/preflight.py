"""Whether a run can be what its configuration says: the checks of ``training.preflight`` with its numbers."""

from collections import Counter
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator

from pixart.build.outlook import Rows, as_table, data_rows, disk_row, model_rows
from pixart.build.reading import RunData
from pixart.config import Config, flatten
from pixart.data.cuts import Cut
from pixart.training.log import Display
from pixart.training.loop import Learner
from pixart.training.processes.launch import named
from pixart.training.processes.preflight import (
    NUMBERS,
    Place,
    add_up,
    enough_of_machine,
    everywhere,
    places,
    same,
)
from pixart.training.processes.ranks import Ranks
from pixart.training.processes.room import Cadences, Room, check_room, in_words
from pixart.training.processes.sharding import local
from pixart.training.processes.shared_disk import share_disk
from pixart.training.run_directory import RunDirectory, environment

DISK_PATIENCE = timedelta(minutes=1)  # a network's disk remembers for a while that a file is not there
AHEAD = 2  # micro-batches that a worker of the loader keeps ready
STARTED_ALIKE = "start all processes alike, from one copy of the code and its packages"
SEEN_ALIKE = "let every machine read the same data, whole and unchanged"


class Preflight:
    """The checks of a run, in the two places where they can be made; all ranks make them together.

    Raises:
        ValueError: the same sentence on all ranks, from here and from both methods.
    """

    def __init__(self, config: Config, accelerator: Accelerator):
        """As soon as the processes have met: they can add up, and were started alike."""
        self.config, self.accelerator = config, accelerator
        self.ranks = Ranks()
        same(self.ranks, _facts(config, accelerator), mend=STARTED_ALIKE)
        self.places = places(self.ranks, accelerator.device)
        self.seconds = add_up(self.ranks, accelerator.device)

    def __call__(self, directory: RunDirectory, learner: Learner, data: RunData, display: Display) -> None:
        """Just before the run begins: its disk, its data, its machine; then say what it will be."""
        share_disk(self.ranks, directory.path, [place.host for place in self.places], patience=DISK_PATIENCE)
        same(self.ranks, {"the fingerprint of the data": data.fingerprint}, mend=SEEN_ALIKE)
        there = [int(found.name.removeprefix("step_")) for found in directory.checkpoints.glob("step_*")]
        first = max(there, default=0)
        sample = max(everywhere(self.ranks, lambda: _bytes_of_sample(data, first, self.ranks.rank)))
        self._machine(sample)
        room = _room(self.config, learner, there)
        free, warning = check_room(self.ranks, directory.path, room)
        held = max(everywhere(self.ranks, lambda: _memory(self.config, learner)))
        rows = [*model_rows(self.config, learner, held), *self._processes(), *data_rows(self.config, data, first)]
        display.say(as_table([*rows, disk_row(room, free)]))
        if warning is not None:
            display.say(f"preflight: {warning}")
        display.say("preflight: all is well")

    def _machine(self, sample: int) -> None:
        workers, host = self.config.data.workers, self.places[self.ranks.rank].host
        together = sum(place.host == host for place in self.places)
        in_flight = workers * AHEAD
        # A tensor of a worker is a file, in shared memory, of the process that reads it.
        enough_of_machine(
            self.ranks,
            shared_memory=sample * self.config.micro_batch * in_flight * together,
            files=64 + 16 * in_flight,
        )

    def _processes(self) -> Rows:
        hosts = dict.fromkeys(place.host for place in self.places)
        for host in hosts:
            mine = [rank for rank, place in enumerate(self.places) if place.host == host]
            devices = Counter(_device(self.places[rank]) for rank in mine)
            yield f"on {host}", f"{named(mine)}: {', '.join(f'{count} x {what}' for what, count in devices.items())}"
        if self.seconds:
            amount = NUMBERS * 4
            speed = f"{in_words(amount / self.seconds)}/s"
            yield "all-reduce", f"{in_words(amount)} in {1000 * self.seconds:.3g} ms ({speed})"


def _device(place: Place) -> str:
    return f"{place.device}{' of' if not place.identity else ''} {place.memory / 2**30:.0f} GiB"


def _facts(config: Config, accelerator: Accelerator) -> dict[str, str]:
    """What must be alike on all ranks."""
    about: dict[str, Any] = environment(accelerator.num_processes, accelerator.device)
    facts = {"commit": about["commit"], "python": about["python"], **about["packages"]}
    keys = flatten(config.model_dump(mode="json", exclude={"run_dir"}))  # which rank 0 decides
    return {key: str(value) for key, value in {**facts, **keys}.items()}


def _bytes_of_sample(data: RunData, k: int, rank: int) -> int:
    """Of one that this rank really reads: its machine may not have the data that another one has."""
    position = rank % data.plan.global_batch(k)
    batch = data.training[Cut(k, position, position + 1)]
    return sum(x.numel() * x.element_size() for x in batch if isinstance(x, torch.Tensor))


def _room(config: Config, learner: Learner, there: list[int]) -> Room:
    weights = sum(p.numel() * p.element_size() for p in learner.bare.parameters())
    averages = 1 + len(config.ema.others) + len(config.ema.power)
    return Room(
        first=max(there, default=0),
        last=config.steps,
        checkpoint=weights * (3 + averages),  # AdamW keeps two numbers a weight
        snapshot=weights * averages,
        there=len(there),
        cadences=Cadences(config.checkpoint_every, config.snapshot_every, config.keep_checkpoints, config.keep_every),
    )


def _memory(config: Config, learner: Learner) -> int:
    """Bytes that this rank's device will hold before any activation; ``ValueError`` where it has less."""
    weights = sum(local(p).numel() * p.element_size() for p in learner.bare.parameters())
    device = learner.accelerator.device
    if device.type != "cuda":
        return weights * (5 + len(config.ema.others) + len(config.ema.power))
    needed = torch.cuda.memory_allocated(device) + 3 * weights  # what is there, then gradients and two moments
    total = torch.cuda.get_device_properties(device).total_memory
    if needed > total:
        raise ValueError(
            f"weights, gradients, optimizer and averages take {in_words(needed)} and the device has {in_words(total)}: "
            "set sharding=full_shard, or take a smaller model"
        )
    return int(needed)
