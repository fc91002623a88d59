"""Kills runs at random moments, starts them again, and compares what they leave with an uninterrupted run's.

    python scripts/kill_runs.py generate reconstruct render train batch --rounds 5 --kills 3 --seed 0

A round starts a command in an empty folder and kills it and its processes with SIGKILL, --kills times, each
at a random moment of the time that a whole run takes; then it lets the command end. Every file must be the
uninterrupted run's to the byte, but for times in reports and logs, and no temporary file may be left. Exit
code 1 where something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from safetensors.torch import load_file, save

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SMALL = ["--quality", "draft", "--faces", "600", "--texture-size", "64"]
TIMES = re.compile(r"second|memory|reused|time|machine|versions|digests|seal|warnings|not_reached|pid")
"""Fields of reports that differ between runs."""
COMMANDS = ("generate", "reconstruct", "render", "train", "batch")


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder.

    Attributes:
        first: its arguments, where nothing is there yet.
        again: its arguments after it was killed.
        resumable: the file from which on `again` can be used; before, it is `first` again.
    """

    first: list[str]
    again: list[str]
    resumable: str = ""


def job(name: str, inputs: Path, out: Path) -> Job:
    """A small run of a command on the inputs of `make_inputs`."""
    o = ["-o", str(out)]
    if name == "generate":
        line = ["generate", str(inputs / "photos/bob.png"), *o, *SMALL]
    elif name == "reconstruct":
        line = ["reconstruct", str(inputs / "capture"), *o, *SMALL]
    elif name == "render":
        line = ["render", str(inputs / "objects"), *o, "--size", "32", "--per-shard", "1", "--rounds", "3"]
    elif name == "batch":
        line = ["batch", str(inputs / "photos"), *o, *SMALL, "--workers", "1"]
        return Job(line, [*line, "--retry"])
    else:
        line = ["train", "vae-smoke", "--data", str(inputs / "data"), *o, "--crop", "16", "--threads", "1"]
        line += ["--steps", "24", "--save-minutes", "0.01"]
        again = ["train", "resume", str(out), "--threads", "1"]
        return Job(line, again, "checkpoint.safetensors")
    return Job(line, line)


def make_inputs(folder: Path) -> None:
    """Photos, objects, rendered orbits, and posed views, all small."""
    (folder / "photos").mkdir(parents=True)
    for name in ("bob.png", "chest.png"):
        shutil.copy(EXAMPLES / name, folder / "photos" / name)
    run(["make-objects", "4", "-o", str(folder / "objects")])
    run(["render", str(folder / "objects"), "-o", str(folder / "data"), "--size", "32"])
    posed = ["--format", "folders", "--appearance", "plain", "--views", "12", "--size", "96"]
    one = next((folder / "objects").glob("*.glb"))
    run(["render", str(one), "-o", str(folder / "posed"), *posed])
    next(path for path in (folder / "posed").iterdir() if (path / "transforms.json").exists()).rename(
        folder / "capture"
    )


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """A command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "v3d", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(arguments: list[str]) -> float:
    """Run a command to its end; the seconds that it takes.

    Raises:
        RuntimeError: it fails.
    """
    begun = time.monotonic()
    process = start(arguments)
    said = process.communicate()[1]
    if process.returncode != 0:
        raise RuntimeError(f"v3d {' '.join(arguments)} ended with {process.returncode}: {said[-600:]}")
    return time.monotonic() - begun


def kill_after(arguments: list[str], seconds: float) -> bool:
    """Kill a command and its processes after some time; False where it had ended by then."""
    process = start(arguments)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    return False


def content(folder: Path) -> dict[str, str]:
    """Name -> digest of what counts in every file of a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        times = path.name in (".lock", "log.jsonl", "summary.csv", "gallery.html")
        if path.is_dir() or times or path.parent.name == "tensorboard":
            continue
        data = path.read_bytes()
        if path.name == "checkpoint.safetensors":  # its metadata hold seconds
            data = save(load_file(path))
        elif path.suffix == ".json":
            data = json.dumps(_without_times(json.loads(data)), sort_keys=True).encode()
        found[name] = sha256(data).hexdigest()
    return found


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if not TIMES.search(k)}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def reference(name: str, inputs: Path, folder: Path) -> tuple[dict[str, str], float]:
    """What an uninterrupted run leaves, and the seconds that it takes."""
    out = folder / f"{name}-reference"
    seconds = run(job(name, inputs, out).first)
    return content(out), seconds


def trial(
    name: str, inputs: Path, folder: Path, expected: dict[str, str], moments: list[float]
) -> tuple[int, list[str]]:
    """Kill a run at each of these moments (seconds after a start), then let it end.

    Returns:
        how many kills met it running, and what differs from the expected content.
    """
    out = folder / f"{name}-killed"
    shutil.rmtree(out, ignore_errors=True)
    work, kills = job(name, inputs, out), 0
    for moment in moments:
        again = (out / work.resumable).exists() if work.resumable else kills > 0
        kills += kill_after(work.again if again else work.first, moment)
    again = (out / work.resumable).exists() if work.resumable else kills > 0
    run(work.again if again else work.first)
    found = content(out)
    wrong = [f"{file} differs" for file in expected if file in found and found[file] != expected[file]]
    wrong += [f"{file} is missing" for file in expected if file not in found]
    wrong += [f"{file} is left over" for file in found if file not in expected]
    return kills, wrong


def main() -> int:
    """Kill the runs that the command line names; 1 where one came out otherwise, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("commands", nargs="+", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS))
    parser.add_argument("--rounds", type=int, default=5, help="of each command")
    parser.add_argument("--kills", type=int, default=3, help="in a round")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice, faulty = random.Random(arguments.seed), False
    with tempfile.TemporaryDirectory() as scratch:
        inputs, folder = Path(scratch) / "inputs", Path(scratch) / "runs"
        make_inputs(inputs)
        for name in arguments.commands:
            expected, seconds = reference(name, inputs, folder)
            kills = different = 0
            for _ in range(arguments.rounds):
                moments = [dice.uniform(0, seconds) for _ in range(arguments.kills)]
                killed, wrong = trial(name, inputs, folder, expected, moments)
                kills += killed
                different += bool(wrong)
                if wrong:
                    print(f"  {name}, killed after {moments}: {'; '.join(wrong[:6])}", flush=True)
            faulty |= different > 0
            print(
                f"{name}: {kills} kills in {arguments.rounds} rounds, {different} came out otherwise "
                f"({len(expected)} files, {seconds:.0f} s uninterrupted)",
                flush=True,
            )
    return int(faulty)


if __name__ == "__main__":
    sys.exit(main())
