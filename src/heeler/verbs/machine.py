"""The verb that looks at the machine: doctor."""

from __future__ import annotations

from heeler import options
from heeler.errors import HeelerError
from heeler.exits import print_json


def doctor(json: options.Json = False, debug: options.Debug = False) -> int:
    """Look at this machine: what a run would use, what is wrong.

    Each thing that is wrong comes with what to do about it.

    \b
    Examples:
      heeler doctor
      heeler doctor --json > machine.json
    """
    from heeler.doctor import examine, print_doctor

    found = examine()
    if json:
        print_json(found.to_json())
    else:
        print_doctor(found)
    return 0 if found.works else HeelerError.exit_code
