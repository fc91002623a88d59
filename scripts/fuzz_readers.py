"""Gives every reader many damaged inputs and counts how each ends.

    python scripts/fuzz_readers.py glb --count 100000 --seed 0 --jobs 1

A reader may read an input or refuse it with a `V3DError`. Anything else is a fault: another exception, more
than 2 GB of memory, or more than 30 seconds. Faults are listed once each, by the last line of their
traceback and the place it came from; the inputs lie in --keep. `all` stands for every reader. Exit code 1
when there is a fault.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.pool
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fuzz_mutations import mutate
from fuzz_seeds import Reader, readers

MEMORY = 2 << 30
"""Bytes of address space that one input may take."""
SECONDS = 30
"""The longest that one input may take."""


@dataclass
class Result:
    """How the inputs of one reader ended.

    Attributes:
        counts: by "read", "refused", "fault".
        faults: how often each, by what it says.
        examples: the number of the first input that ended so.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)

    def add(self, number: int, outcome: str, fault: str) -> None:
        """Count one input."""
        self.counts[outcome] += 1
        if outcome == "fault":
            self.faults[fault] += 1
            self.examples.setdefault(fault, number)


class Inputs:
    """The inputs of one reader: input k is a function of the reader's name, the seed and k."""

    def __init__(self, name: str, reader: Reader, seed: int, folder: Path) -> None:
        self._name, self._reader, self._seed = name, reader, seed
        self._good, self._work = folder / "good", folder / "work"
        if not self._good.exists():
            self._good.mkdir(parents=True)
            reader.make(self._good)
        self._seeds = sorted(self._good.iterdir())
        self._all = [file.read_bytes() for file in sorted(self._good.rglob("*")) if file.is_file()]

    def write(self, number: int) -> Path:
        """Write input `number`; the path to give to the reader."""
        dice = random.Random(f"{self._name}:{self._seed}:{number}")
        good = dice.choice(self._seeds)
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        path = self._work / good.name
        if good.is_dir():
            shutil.copytree(good, path)
        else:
            shutil.copy(good, path)
        files = [file for file in ([path] if path.is_file() else sorted(path.rglob("*"))) if file.is_file()]
        damaged = [f for f in files if not self._reader.damaged or f.suffix in self._reader.damaged]
        target = dice.choice(damaged)
        target.write_bytes(mutate(target.name, target.read_bytes(), self._all, dice))
        return path

    def check(self) -> None:
        """Read the good inputs; what they raise is not caught."""
        for good in self._seeds:
            self._reader.read(good)

    def run(self, number: int) -> tuple[str, str]:
        """How input `number` ends, and what its fault says."""
        from v3d.errors import V3DError

        path = self.write(number)
        try:
            self._reader.read(path)
        except V3DError:
            return "refused", ""
        except (Exception, SystemExit) as error:
            place = [f for f in traceback.extract_tb(error.__traceback__) if "/v3d/" in f.filename]
            where = f"{Path(place[-1].filename).name}:{place[-1].name}" if place else "?"
            return "fault", f"{where}: {traceback.format_exception_only(error)[-1].strip()[:160]}"
        return "read", ""


def fuzz(name: str, numbers: range, seed: int, folder: Path) -> Result:
    """Run the inputs `numbers` of one reader in this process, without limits."""
    inputs = Inputs(name, readers()[name], seed, folder)
    result = Result()
    for number in numbers:
        result.add(number, *inputs.run(number))
    return result


def _work(
    name: str, numbers: range, seed: int, folder: Path, pipe: multiprocessing.connection.Connection
) -> None:
    """Run inputs in a process of their own, with a limit of memory."""
    warnings.simplefilter("ignore")
    logging.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C write there
    inputs = Inputs(name, readers()[name], seed, folder)
    inputs.check()  # and all is imported
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY, pages + MEMORY))
    for number in numbers:
        pipe.send((number, *inputs.run(number)))


def fuzz_guarded(name: str, numbers: range, seed: int, folder: Path) -> Result:
    """Run inputs in another process, which is started again after one that hangs or ends it."""
    result, context = Result(), multiprocessing.get_context("spawn")
    first = numbers.start
    while first < numbers.stop:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(name, range(first, numbers.stop), seed, folder, there))
        process.start()
        there.close()
        try:
            begun = False
            while first < numbers.stop:
                if not here.poll(SECONDS if begun else 120):
                    result.add(first, "fault", f"more than {SECONDS} seconds")
                    first += 1
                    break
                number, outcome, fault = here.recv()
                result.add(number, outcome, fault)
                first, begun = number + 1, True
        except EOFError:
            process.join()
            result.add(first, "fault", f"the process ended (exit code {process.exitcode})")
            first += 1
        process.kill()
        process.join()
    return result


def report(name: str, result: Result, seconds: float, keep: Path, seed: int, folder: Path) -> None:
    """Print what was found, and keep the input of every fault."""
    counts = ", ".join(f"{result.counts[kind]} {kind}" for kind in ("read", "refused", "fault"))
    print(f"{name}: {result.counts.total()} inputs in {seconds:.0f} s: {counts}", flush=True)
    inputs = Inputs(name, readers()[name], seed, folder)
    for fault, count in result.faults.most_common():
        number = result.examples[fault]
        kept = keep / f"{name}-{seed}-{number}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        path = inputs.write(number)
        shutil.move(path, kept / path.name)
        print(f"  {count} x {fault}   ({kept})", flush=True)


def main() -> int:
    """Fuzz the readers that the command line names; 1 where there is a fault, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "readers", nargs="+", metavar="READER", help=f"all, or some of {', '.join(readers())}"
    )
    parser.add_argument("--count", type=int, default=1000, help="inputs of each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes of each reader")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="folder of what made faults")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.readers if name not in (*readers(), "all")]
    if unknown:
        parser.error(f"there is no reader {unknown[0]}")
    names = list(readers()) if "all" in arguments.readers else arguments.readers
    faulty = False
    for name in names:
        start = time.perf_counter()
        share = -(-arguments.count // arguments.jobs)
        last = arguments.first + arguments.count
        ranges = [range(i, min(i + share, last)) for i in range(arguments.first, last, share)]
        with tempfile.TemporaryDirectory() as scratch:
            places = [Path(scratch) / str(k) for k in range(len(ranges))]
            tasks = [(name, r, arguments.seed, p) for r, p in zip(ranges, places, strict=True)]
            if len(tasks) == 1:
                results = [fuzz_guarded(*tasks[0])]
            else:
                with multiprocessing.pool.ThreadPool(len(tasks)) as pool:
                    results = pool.starmap(fuzz_guarded, tasks)
            total = Result()
            for result in results:
                total.counts += result.counts
                total.faults += result.faults
                total.examples = {**result.examples, **total.examples}
            seconds = time.perf_counter() - start
            report(name, total, seconds, arguments.keep, arguments.seed, Path(scratch) / "again")
            faulty |= bool(total.faults)
    return int(faulty)


if __name__ == "__main__":
    sys.exit(main())
