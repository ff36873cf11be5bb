"""What the tests of the review share: a run folder that lists problems, and its page on a real server."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heeler.data.catalogue import read_source, write_catalogue
from heeler.files import write_json
from heeler.fixes import Fix, write_fixes
from heeler.records import Catalogue
from heeler.review import Review, open_review
from heeler.serve_review import serve


def make_run(run: Path, source: Path, fixes: Sequence[Fix], catalogue: Catalogue | None = None) -> Path:
    """The files of a run that the review reads."""
    run.mkdir()
    write_json(run / "run.json", {"source": str(source.resolve()), "options": "0"})
    write_catalogue(run / "catalogue.csv", catalogue or read_source(source))
    write_fixes(run / "fixes.csv", fixes)
    return run


@dataclass(frozen=True)
class Reply:
    """An answer of the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Page:
    """A page that is being served, and a client that may lie."""

    opened: Review
    host: str
    port: int
    root: str

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str | None) -> Reply:
        """Ask for a path below the secret one; a header that is None is not sent, underscores are hyphens."""
        sent = {"Host": self.host, **({"Origin": f"http://{self.host}"} if method == "POST" else {})}
        if method == "POST":
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(body or b""))}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}  # type: ignore[dict-item]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, self.root + path, skip_host=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            return Reply(reply.status, dict(reply.getheaders()), reply.read())
        finally:
            connection.close()

    def decide(self, photo: int, action: str, label: int | None = None) -> Reply:
        asked = {"photo": photo, "action": action} | ({} if label is None else {"class": label})
        return self.ask("decide", "POST", json.dumps(asked).encode())

    def undo(self) -> Reply:
        return self.ask("undo", "POST", b"{}")


@contextmanager
def page_of(run: Path, photos: Path | None = None) -> Iterator[Page]:
    """The page of a run, on a server in a thread of its own."""
    opened = open_review(run, photos)
    with serve(opened) as address:
        host, _, root = address.removeprefix("http://").partition("/")
        yield Page(opened, host, int(host.rpartition(":")[2]), f"/{root}")
