"""Fetching shards before they are read."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Lock, Thread

from pixart.data.storage.cache import ShardCache
from pixart.data.storage.remote import Stopped
from pixart.data.storage.room import NoRoom


class Ahead:
    """Threads of this process that bring shards into the cache; they end when nothing is wanted any more."""

    def __init__(self, cache: ShardCache, fetchers: int):
        """``fetchers`` threads at most at a time."""
        self._cache, self._fetchers = cache, fetchers
        self._lock = Lock()
        self._wanted: deque[int] = deque()
        self._spared: frozenset[Path] = frozenset()
        self._failed: set[int] = set()
        self._threads: list[Thread] = []
        self._stop = Event()

    def want(self, shards: Sequence[int]) -> None:
        """These and no others, in the order in which they will be needed. None at all: end what is being fetched."""
        with self._lock:
            self._wanted = deque(shards)
            self._spared = frozenset(map(self._cache.path, shards))
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            started = [self._thread() for _ in range(min(self._fetchers, len(shards)) - len(self._threads))]
            self._threads += started
        for thread in started:
            thread.start()
        if not len(shards):
            self._end()

    def _thread(self) -> Thread:
        return Thread(target=self._bring, args=(self._stop,), daemon=True, name="fetch ahead")

    def _end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads, self._stop = [], Event()

    def _bring(self, stop: Event) -> None:
        while (shard := self._next()) is not None:
            try:
                self._cache.bring(shard, spared=self._spared, stop=stop)
            except Stopped:
                return
            except NoRoom:
                with self._lock:
                    self._wanted.clear()  # what is wanted sooner fills the cache
            except ValueError:
                self._failed.add(shard)  # reading it will tell why

    def _next(self) -> int | None:
        with self._lock:
            while self._wanted:
                shard = self._wanted.popleft()
                if shard not in self._failed:
                    return shard
            return None
