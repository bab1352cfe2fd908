"""What the runs of a sweep need of each other: well said all of them, and a folder each."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixart.config import Config, default_run_dir, flatten, parse


def refuse_shared_runs(jobs: dict[str, dict[str, Any]]) -> None:
    """``ValueError`` where a job (name -> values) is not well configured, or several would train in one folder."""
    homes = defaultdict[Path, dict[str, Config]](dict)
    for name, values in jobs.items():
        try:
            config = parse(values, Config)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        homes[Path(config.run_dir or default_run_dir(config)).expanduser().resolve()][name] = config
    for together in homes.values():
        if len(together) > 1:
            raise ValueError(_mend(together))


def _mend(together: dict[str, Config]) -> str:
    names, configs = list(together), list(together.values())
    told = " and ".join(names) if len(names) == 2 else f"{len(names)} jobs, {names[0]} to {names[-1]},"
    keys = _telling_apart(configs)
    if not keys:
        return f"{told} are the same run: leave all but one out"
    given = configs[0].run_dir
    apart = "-".join(f"${{{key}}}" for key in keys)
    if given is None:
        return (
            f"{told} would be one run, as a run may go on with another {' and '.join(keys)}: say where each is to "
            f"be, as in run_dir='outputs/${{stage}}-${{scale}}-{apart}'"
        )
    alone = len({default_run_dir(config) for config in configs}) == len(configs)
    mend = "leave run_dir out, and each has its own, or say" if alone else "say"
    return f"run_dir={given} is one folder for {told}: {mend} where each is to be, as in run_dir='{given}-{apart}'"


def _telling_apart(configs: Sequence[Config]) -> list[str]:
    """The key in which all of them differ, or else every key in which any do."""
    flat = [flatten(config.model_dump(mode="json")) for config in configs]
    values = {key: {str(one.get(key)) for one in flat} for key in flat[0] if key != "run_dir"}
    whole = [key for key, different in values.items() if len(different) == len(configs)]
    return whole[:1] or [key for key, different in values.items() if len(different) > 1]
