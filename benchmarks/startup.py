"""CPU seconds of `import plausible` and of `plausible --help`: what a person waits for before anything happens.

    python benchmarks/startup.py

User and system time of a fresh process, files in the page cache. Bars: 0.3 s and 0.4 s.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from side_by_side import Others, machine, rotate, spread, table

COMMANDS = {
    "python -c pass": ([sys.executable, "-c", "pass"], ""),
    "import plausible": ([sys.executable, "-c", "import plausible"], "0.30"),
    "plausible --help": ([sys.executable, "-m", "plausible", "--help"], "0.40"),
}


def cpu_seconds(command: list[str]) -> float:
    """Run it; return the CPU seconds of the child."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "100"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with Others() as others:
        seconds = rotate({name: lambda c=command: cpu_seconds(c) for name, (command, _) in COMMANDS.items()}, 7)
    print(f"{machine()}; others used {others}", end="\n\n")
    print(table(["", "CPU s", "bar"], [[name, spread(seconds[name]), bar] for name, (_, bar) in COMMANDS.items()]))


if __name__ == "__main__":
    main()
