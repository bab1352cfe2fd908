"""What a run has cost so far: device-hours by occupation, over all its interruptions, in ``ledger.json``."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixart.aside import write_atomically

TRAINING = "training"


class Ledger:
    """Adds up wall-clock seconds times devices; what no other occupation claims is training.

    Work that a kill undid was paid for and stays in the books.

    Args:
        path: of ``ledger.json``; what stands there already is added to.
        devices: processes of this run.
        dollars_per_device_hour: the rate; None leaves dollars out.
    """

    def __init__(self, path: Path, *, devices: int, dollars_per_device_hour: float | None):
        self.path = path
        self.devices = devices
        self.rate = dollars_per_device_hour
        self.device_hours: dict[str, float] = {TRAINING: 0.0}
        if path.exists():
            self.device_hours |= _hours_in(path)
        self._since = time.perf_counter()

    def _book(self, occupation: str) -> None:
        now = time.perf_counter()
        hours = (now - self._since) * self.devices / 3600
        self.device_hours[occupation] = self.device_hours.get(occupation, 0.0) + hours
        self._since = now

    @contextmanager
    def spent_on(self, occupation: str) -> Iterator[None]:
        """Book the time inside under ``occupation``."""
        self._book(TRAINING)
        try:
            yield
        finally:
            self._book(occupation)

    def write(self, *, samples_seen: int) -> None:
        """Bring the file up to date."""
        self._book(TRAINING)
        total = sum(self.device_hours.values())
        entry = {
            "devices": self.devices,
            "samples_seen": samples_seen,
            "device_hours": self.device_hours,
            "total": total,
        }
        if self.rate is not None:
            entry |= {"dollars_per_device_hour": self.rate, "dollars": total * self.rate}
        write_atomically(self.path, json.dumps(entry, indent=2) + "\n")


def _hours_in(path: Path) -> dict[str, float]:
    try:
        hours = json.loads(path.read_text())["device_hours"]
        return {str(occupation): float(spent) for occupation, spent in hours.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a ledger: delete it to count anew") from None
