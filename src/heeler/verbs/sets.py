"""The verb that brings photos: get."""

from __future__ import annotations

from heeler import options
from heeler.errors import UsageError
from heeler.exits import print_json


def get(
    name: options.SetName = None,
    out: options.SetFolder = None,
    list_sets: options.ListSets = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> int:
    """Fetch a public set of photos, such as Imagewoof.

    It goes on after a break, verifies what came and unpacks it. Folders that are named by
    codes get a table of class names beside them, which train takes. HEELER_GET_URL names a
    mirror: a folder at https:// with the same archives.

    \b
    Examples:
      heeler get --list
      heeler get imagewoof2-320
      heeler get flower-photos --out data/flowers --json
    """
    from heeler.data.sets import SETS, find_set

    if list_sets:
        from heeler.getting import print_sets

        if json:
            print_json({"sets": [each.to_json() for each in SETS]})
        else:
            print_sets(SETS)
        return 0
    if name is None:
        raise UsageError("Missing argument 'NAME'.", hint="heeler get --list names the sets that there are")
    wanted = find_set(name)
    from heeler.data.fetch import fetch
    from heeler.getting import print_fetched
    from heeler.terminal import listener

    with listener(quiet=quiet) as on_event:
        fetched = fetch(wanted, out, on_event)
    if json:
        print_json(fetched.to_json())
    else:
        print_fetched(wanted, fetched)
    return 0
