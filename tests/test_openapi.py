"""What the server says of itself is so: schemathesis asks by the document and looks at each answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from conftest import TrainedRun
from heeler.limits import ServeLimits
from heeler.ship.openapi import docs_page, document
from images import cat, encode
from server import get, port_of

pytest.importorskip("uvicorn")
schemathesis = pytest.importorskip("schemathesis")
from heeler.serving import running  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
N_EXAMPLES = 12
ROUTES = ("/predict", "/predict/batch", "/explain", "/model", "/healthz", "/metrics")


@pytest.fixture(scope="module")
def address(trained_run: TrainedRun) -> Iterator[str]:
    with running(trained_run.model) as serving:
        yield serving.address


def photos() -> st.SearchStrategy[bytes]:
    """Bodies that are good: real photos of several sizes."""
    return st.sampled_from([encode(cat().resize(size), quality=80) for size in ((90, 60), (33, 40), (451, 300))])


def test_the_document_lists_what_is_there(address: str) -> None:
    served = get(port_of(address), "/openapi.json").json
    assert served == document(ServeLimits(), has_token=False)
    assert tuple(served["paths"]) == ROUTES


@pytest.mark.parametrize("route", ROUTES)
def test_every_answer_is_as_the_document_says(route: str, address: str) -> None:
    schemathesis.openapi.media_type("image/*", photos())
    schema: Any = schemathesis.openapi.from_url(f"{address}openapi.json")
    (operation,) = [each.ok() for each in schema.get_all_operations() if each.ok().path == route]

    @settings(
        max_examples=N_EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def look(case: Any) -> None:
        case.call_and_validate(base_url=address.rstrip("/"))

    look()


def test_with_a_token_the_document_says_so() -> None:
    described = document(ServeLimits(), has_token=True)
    wanted = {path: op["security"] for path, methods in described["paths"].items() for op in methods.values()}
    assert {path for path, security in wanted.items() if not security} == {"/healthz"}


def test_the_page_for_people_has_all_of_it() -> None:
    text = docs_page(document(ServeLimits(), has_token=False), ServeLimits()).html.decode()
    for route in ROUTES:
        assert f" {route}</code>" in text
    for what, most, _ in ServeLimits().rows():
        assert what.replace("`", "") in text.replace("`", "") and most in text
