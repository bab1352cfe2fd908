"""The peak that a picture is told to have taken is that of the process that drew it."""

import subprocess
import sys

import torch

from pixart.benchmark.alone import held_mib
from pixart.sampling.memory import peak_memory

STARTED = """
import torch
from pixart.sampling.memory import peak_memory
print(peak_memory(torch.device("cpu")))
"""


def test_the_peak_on_a_cpu_is_at_least_what_is_held():
    assert peak_memory(torch.device("cpu")) >= held_mib() * 2**20 > 0


def test_a_process_that_1_gib_started_does_not_tell_of_that():
    large = (
        f"import subprocess, sys; held = b'x' * 2**30; subprocess.run([sys.executable, '-c', {STARTED!r}], check=True)"
    )
    told = subprocess.run([sys.executable, "-c", large], capture_output=True, text=True, check=True)
    assert 0 < int(told.stdout) < 2**30
