"""Hostile requests to a real server, each with the status that it must get: ``python bench/hostile_requests.py MODEL``.

The server is ``heeler serve`` as it is, in a process of its own, with its own limits. Printed is a Markdown table; the
exit code is 1 where one request got another status, another form of answer, or a path in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from processes import machine
from serve import served

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from heeler.machine import n_cores
from heeler.ship.refusals import CODES
from hostile_requests_cases import Case, cases, good_as_tiny_chunks, wrong
from server import ask, classify, photo

AT_ONCE = 8


def tried(port: int, case: Case) -> tuple[Case, int, str]:
    """A case, the status that it got, and what was wrong."""
    try:
        reply = ask(port, then=case.pieces())
    except (OSError, ValueError) as error:
        return case, 0, f"no answer: {type(error).__name__}"
    try:
        code = str(json.loads(reply.body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        code = ""
    return case, reply.status, wrong(case, reply.status, reply.body, dict(CODES), code)


def main() -> int:
    """Print the table; 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder")
    given = parser.parse_args()
    with served(given.model) as server:
        right = classify(server.port, photo()).json
        with ThreadPoolExecutor(AT_ONCE) as pool:
            results = list(pool.map(lambda case: tried(server.port, case), cases()))
        is_alive = classify(server.port, photo()).json == right
        are_chunks_read = ask(server.port, good_as_tiny_chunks()).json == right
    by_status: dict[int, list[str]] = defaultdict(list)
    for case, status, _ in results:
        by_status[status].append(case.name)
    print(f"{len(results)} hostile requests; {machine(n_cores())}\n")
    print("| answer | requests | of which |\n|---|--:|---|")
    for status, names in sorted(by_status.items()):
        print(f"| {status} | {len(names)} | {'; '.join(names)} |".replace("\0", ""))
    failed = [f"{case.name}: {said}" for case, _, said in results if said]
    failed += [] if is_alive else ["afterwards, a good photo got another answer"]
    failed += [] if are_chunks_read else ["a good photo in chunks of six bytes was refused"]
    print(f"\n{len(results) - len(failed)} as expected, {len(failed)} not; paths or tracebacks in answers: 0"
          if not failed else "\n" + "\n".join(failed))  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
