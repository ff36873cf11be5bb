"""What strangers may send: each hostile request gets its status, in the one form, and the server answers on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import TrainedRun
from heeler.limits import ServeLimits
from heeler.ship.refusals import CODES
from hostile_requests_cases import Case, cases, good_as_tiny_chunks, wrong
from server import Reply, ask, classify, photo, port_of

pytest.importorskip("uvicorn")
from heeler.serving import running

pytestmark = pytest.mark.usefixtures("one_thread")
CASES = cases()


@pytest.fixture(scope="module")
def port(trained_run: TrainedRun) -> Iterator[int]:
    """A server that is less patient than it is at work."""
    with running(trained_run.model, limits=ServeLimits(read_s=2)) as serving:
        yield port_of(serving.address)


def assert_right(case: Case, reply: Reply) -> None:
    assert wrong(case, reply.status, reply.body, dict(CODES), reply.code) == "", reply
    assert "access-control-allow-origin" not in reply.headers
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"].startswith("default-src 'none'")
    assert ("retry-after" in reply.headers) == (reply.status == 503)


@pytest.mark.parametrize("case", [case for case in CASES if not case.is_slow], ids=lambda case: case.name)
def test_a_hostile_request_gets_its_status(case: Case, port: int) -> None:
    assert_right(case, ask(port, *case.pieces()))


def test_slow_requests_are_let_go(port: int) -> None:
    slow = [case for case in CASES if case.is_slow]
    with ThreadPoolExecutor(len(slow)) as pool:
        for case, reply in zip(slow, pool.map(lambda case: ask(port, then=case.pieces()), slow), strict=True):
            assert_right(case, reply)


def test_there_are_enough_and_no_two_alike() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


def test_chunks_of_six_bytes_are_a_photo_all_the_same(port: int) -> None:
    assert ask(port, good_as_tiny_chunks()).json == classify(port, photo()).json
