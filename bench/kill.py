"""Kill trainings at 200 points and resume them: ``python bench/kill.py``; how many end bit-identical.

The points are the ends of steps and each call that a save is made of. The work is done by ``tests/kill_child.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = Path(__file__).parent.parent / "tests" / "kill_child.py"


def main() -> int:
    """Run the trials and print what became of them; 1 where one was not bit-identical."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="runs that are killed and resumed [200]")
    parser.add_argument("--seed", type=int, default=0, help="of the points that are drawn [0]")
    given = parser.parse_args()
    environment = os.environ | {"KILL_TRIALS": str(given.trials), "KILL_SEED": str(given.seed)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(CHILD), folder]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    _, *trials = (json.loads(line) for line in done.stdout.splitlines())
    broken = [trial for trial in trials if not trial["identical"]]
    n_kills = sum(trial["n_kills"] for trial in trials)
    n_same = len(trials) - len(broken)
    print(f"{n_kills} kills; {n_same} of {len(trials)} runs ended bit-identical to the one that nobody killed")
    for trial in broken:
        print(json.dumps(trial))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
