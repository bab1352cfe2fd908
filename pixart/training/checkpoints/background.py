"""One piece of work beside training, in a thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class Background:
    """Does one thing at a time; what it met is raised where it is waited for.

    The thread is no daemon: a process that ends lets it finish.

    Args:
        beside: False does everything in line, at once.
    """

    def __init__(self, *, beside: bool):
        self.beside = beside
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin ``work``; nothing else may be under way."""
        assert self._under_way is None
        if self.beside:
            self._under_way = self._thread.submit(work)
        else:
            work()

    def finish(self) -> None:
        """Wait for what is under way, and raise what it met; does nothing where there is nothing."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def settle(self) -> BaseException | None:
        """The same, for one who has an error already: what it met is returned."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return None
        wait([under_way])
        return under_way.exception()

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown()
