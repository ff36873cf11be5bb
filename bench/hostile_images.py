"""Malformed images by the thousand through all that reads photos: crashes, hangs, memory, cut files taken for whole.

    python bench/hostile_images.py [--seed 0] [--limit 500] [--no-commands]

Each file is decoded as ``check`` and ``predict`` do it, in a child process that can die or hang without taking the
count with it; and by a decoder of ``heeler serve``, with the limits that it has there. Then all of them lie in one
folder, and the commands ``heeler check`` and ``heeler predict`` read it as a user's. The files are made by
``tests/malformed.py``.

Seconds are those of the processor, so that other programs do not count; a file that takes longer than ``KILL_S`` of
wall time is killed. Extra memory is the peak of the process beyond what it held after ordinary photos (Linux only).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from processes import POLL_S, machine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from heeler.errors import UnreadableError
from heeler.limits import ServeLimits
from heeler.machine import n_cores
from heeler.records import Preprocessing
from heeler.ship.sandbox import CRASHED, Decoder, Nursery
from images import cat, claiming_jpeg, encode
from malformed import Malformed, cases

HANG_S = 2.0
KILL_S = 60.0
MB = 1e6
MAX_EXTRA_BYTES = 300e6
N_PHOTOS, N_TIMED, N_NAMED = 12, 200, 5
SPECS = (Preprocessing(), Preprocessing(image_px=260, fit="pad"))
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Args:
        case: the file.
        verdict: ``refused``, ``accepted``, ``crashed`` or ``raised`` (something that is no verdict on the file).
        seconds: of the processor, for one decoding.
        extra_bytes: most memory at once, beyond what the process held before.
        words: the reason, or what was raised.
    """

    case: Malformed
    verdict: str
    seconds: float = 0.0
    extra_bytes: int = 0
    words: str = ""

    @property
    def broken(self) -> str:
        """Which promise was not kept; "" where all were."""
        promises = {
            "crashed": self.verdict in ("crashed", "raised"),
            "hung": self.seconds > HANG_S,
            "took too much memory": self.extra_bytes > MAX_EXTRA_BYTES,
            "took a cut file for a whole one": self.case.is_cut and self.verdict == "accepted",
        }
        return ", ".join(words for words, is_broken in promises.items() if is_broken)


def main() -> int:
    """Run all files and print tables; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the files that are drawn [0]")
    parser.add_argument("--limit", type=int, help="the first files alone [all]")
    parser.add_argument("--no-commands", action="store_true", help="leave out heeler check and heeler predict")
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.seed, *given.child)
        return 0
    print(machine(n_cores()))
    files = list(islice(cases(given.seed), given.limit))
    ways: dict[str, Callable[[], Iterator[Outcome]]] = {
        "decoded as `heeler check` and `heeler predict` do": lambda: watch(files, given.seed),
        "by a decoder of `heeler serve`": lambda: serve(files),
    }
    n_broken = 0
    for way, outcomes_of in ways.items():
        print(f"\n{way}\n")
        outcomes = list(outcomes_of())
        n_accepted = sum(outcome.verdict == "accepted" for outcome in outcomes)
        print_table(outcomes)
        n_broken += sum(outcome.broken != "" for outcome in outcomes)
    print_claim()
    if not given.no_commands:
        n_broken += run_commands(files, n_accepted)
    print(f"\n{n_broken} promises broken")
    return 1 if n_broken else 0


def child(seed: int, start: int, stop: int) -> None:
    """Decode files ``start`` to ``stop`` and say what became of each, line by line."""
    import torch

    from heeler.data.decode import decode

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for spec in SPECS:
        decode(encode(cat()), spec)
    base = memory("VmRSS")
    for case in islice(cases(seed), start, stop):
        verdict, words, seconds = "accepted", "", 0.0
        forget_peak()
        for spec in SPECS:
            began = time.process_time()
            try:
                decode(case.data, spec)
            except UnreadableError as error:
                verdict, words = "refused", error.message
            except Exception as error:
                verdict, words = "raised", repr(error)
            seconds = max(seconds, time.process_time() - began)
        print(json.dumps([verdict, seconds, max(0, memory("VmHWM") - base), words]), flush=True)


def memory(line: str, process: int | str = "self") -> int:
    """Bytes on a line of ``/proc/PID/status``."""
    text = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(text.split(f"{line}:")[1].split()[0])


def forget_peak(process: int | str = "self") -> None:
    """From now on ``VmHWM`` is the peak since now."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def watch(files: Sequence[Malformed], seed: int) -> Iterator[Outcome]:
    """Outcomes of all files, in order; a child that dies or hangs is replaced by one that goes on after that file."""
    at = 0
    while at < len(files):
        command = [sys.executable, __file__, "--seed", str(seed), "--child", str(at), str(len(files))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for said in lines_of(process):
            yield Outcome(files[at], *said)
            at += 1
        code = process.wait()
        if at < len(files):
            yield Outcome(files[at], "crashed", KILL_S if code == -9 else 0.0, words=f"exit status {code}")
            at += 1


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[list[Any]]:
    """What a child says, until it ends or says nothing for ``KILL_S`` and is killed."""
    assert process.stdout is not None
    descriptor, rest = process.stdout.fileno(), b""
    while select.select([descriptor], [], [], KILL_S)[0]:
        read = os.read(descriptor, 1 << 16)
        if not read:
            return
        *whole, rest = (rest + read).split(b"\n")
        yield from map(json.loads, whole)
    process.kill()


def serve(files: Sequence[Malformed]) -> Iterator[Outcome]:
    """Outcomes of all files that a server would take, from a child as it has them."""
    os.environ["PYTHONWARNINGS"] = "ignore"
    limits, nursery = ServeLimits(), Nursery()
    decoder = Decoder(nursery, SPECS[0], limits)
    bases: dict[int, int] = {}
    try:
        for case in files:
            if len(case.data) > limits.body_bytes:
                continue
            if decoder.pid not in bases:
                decoder.decode(encode(cat()), time.monotonic() + KILL_S)
                bases[decoder.pid] = memory("VmRSS", decoder.pid)
            pid, verdict, words = decoder.pid, "accepted", ""
            forget_peak(pid)
            began = used_s(pid)
            try:
                decoder.decode(case.data, time.monotonic() + limits.work_s)
            except UnreadableError as error:
                verdict, words = "crashed" if error.message == CRASHED else "refused", error.message
            except TimeoutError:
                yield Outcome(case, "refused", limits.work_s, words="took too long")
                continue
            if decoder.pid != pid:  # the second of two attempts went well
                yield Outcome(case, "crashed", words="a decoder died")
            else:
                yield Outcome(case, verdict, used_s(pid) - began, max(0, memory("VmHWM", pid) - bases[pid]), words)
    finally:
        decoder.close()
        nursery.close()


def used_s(pid: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def print_table(outcomes: Sequence[Outcome]) -> None:
    """One line for each kind of file, the slowest and the hungriest, and each broken promise by name."""
    print("| files | tried | refused | accepted | crashes | hangs | slowest, s | peak extra, MB | cut and accepted |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for kind in [*dict.fromkeys(outcome.case.kind for outcome in outcomes), "all"]:
        of_kind = [each for each in outcomes if kind in (each.case.kind, "all")]
        n = Counter(each.verdict for each in of_kind)
        slowest, hungriest = max(each.seconds for each in of_kind), max(each.extra_bytes for each in of_kind)
        n_cut = sum(each.case.is_cut and each.verdict == "accepted" for each in of_kind)
        cells = (
            *(kind, f"{len(of_kind):,}", f"{n['refused']:,}", f"{n['accepted']:,}", n["crashed"] + n["raised"]),
            *(sum(each.seconds > HANG_S for each in of_kind), f"{slowest:.2f}", f"{hungriest / MB:.0f}", n_cut),
        )
        print(f"| {' | '.join(map(str, cells))} |")
    print()
    for each in sorted(outcomes, key=lambda each: -each.seconds)[:N_NAMED]:
        print(f"slowest: {told(each)}")
    for each in sorted(outcomes, key=lambda each: -each.extra_bytes)[:N_NAMED]:
        print(f"hungriest: {told(each)}")
    for each in outcomes:
        if each.broken:
            print(f"BROKEN: {each.broken}: {told(each)}")


def told(outcome: Outcome) -> str:
    """An outcome in a line."""
    return (
        f"{outcome.case.kind}, {outcome.case.name}: {outcome.seconds:.2f} s, {outcome.extra_bytes / MB:.0f} MB, "
        f"{outcome.verdict} {outcome.words}"
    )


def print_claim() -> None:
    """Time and memory of refusing the JPEG of 27 kB that claims 400 megapixels."""
    from heeler.data.decode import decode

    def refused() -> tuple[float, str]:
        began = time.perf_counter()
        try:
            decode(data, SPECS[0])
        except UnreadableError as error:
            return 1e3 * (time.perf_counter() - began), error.message
        return KILL_S, "accepted"

    data = claiming_jpeg()
    times_ms = sorted(refused()[0] for _ in range(N_TIMED))
    tracemalloc.start()
    _, reason = refused()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"\na JPEG of {len(data):,} bytes {reason}: refused in {times_ms[N_TIMED // 2]:.3f} ms (median of {N_TIMED}; "
          f"slowest {times_ms[-1]:.3f}), {peak / MB:.3f} MB")  # fmt: skip


def run_commands(files: Sequence[Malformed], n_good: int) -> int:
    """Let the real commands read all files, and ``n_good`` good ones; how many of their promises were broken."""
    from conftest import make_photos

    with tempfile.TemporaryDirectory(prefix="heeler-hostile-") as name:
        root = Path(name)
        os.environ["HEELER_CACHE"] = str(root / "cache")
        photos = make_photos(root / "photos", cat=N_PHOTOS, coffee=N_PHOTOS)
        run("train", photos, "--epochs", "0", "--image-px", "64", "--out", root / "run", "--json")
        put(root / "good", [variant(number) for number in range(n_good)])
        put(root / "bad", [case.data for case in files])
        n_broken = 0
        for verb, n_read, n_ok in (("check", "n_found", "n_usable"), ("predict", "n", "n_ok")):
            args = [verb, *([root / "run" / "model"] if verb == "predict" else [])]
            _, peak, _ = run(*args, root / "good", "--json")
            found, bad_peak, words = run(*args, root / "bad", "--json")
            accepted = [row["path"] for row in found.get("predictions", []) if row["status"] in ("ok", "unsure")]
            n_cut = sum(files[int(Path(path).stem)].is_cut for path in accepted)
            print(f"\nheeler {verb}: {found[n_read]:,} files, {found[n_ok]:,} read, of them {n_cut} cut; {words}, "
                  f"{(bad_peak - peak) / MB:.0f} MB more than with {n_good:,} good photos")  # fmt: skip
            n_broken += n_cut + (found[n_read] != len(files)) + (bad_peak - peak > MAX_EXTRA_BYTES)
        return n_broken


def variant(number: int) -> bytes:
    """A photo as small as the malformed ones, and as much like the others as they are like each other."""
    photo = cat().resize((120, 80))
    photo.putpixel((number % 120, number // 120 % 80), (255, 0, 0))
    return encode(photo)


def put(folder: Path, files: Sequence[bytes]) -> None:
    """Files in two classes, under their numbers."""
    for place in ("a", "b"):
        (folder / place).mkdir(parents=True)
    for number, data in enumerate(files):
        (folder / "ab"[number % 2] / f"{number}.jpg").write_bytes(data)


def run(*args: object) -> tuple[dict[str, Any], int, str]:
    """What a heeler command said in JSON, its peak memory in bytes, and how it ended in words."""
    began, peak = time.perf_counter(), 0
    command = [sys.executable, "-m", "heeler", *map(str, args)]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            with contextlib.suppress(OSError, IndexError):  # it ended meanwhile
                peak = max(peak, memory("VmHWM", process.pid))
            time.sleep(POLL_S)
        out.seek(0)
        said = json.loads(out.read() or b"{}")
    seconds = time.perf_counter() - began
    return said, peak, f"exit {process.returncode}, {seconds:.0f} s, peak {peak / MB:.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
