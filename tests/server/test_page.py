"""The chat page in a browser, where there is one: conversations, streams that are stopped, probabilities, errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser import BROWSER, Page, browsing
from served import Running, running

import fastlm
from fastlm.server import app

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
Models = dict[str, fastlm.Model]


def texts(selector: str) -> str:
    """A script that gives the texts of elements."""
    return f"[...document.querySelectorAll('{selector}')].map((one) => one.textContent)"


ANSWERS = texts(".assistant .answer")
IDLE = "!running && document.querySelector('.assistant:not(.writing)') !== null"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile")) as one:
        yield one


def opened(page: Page, server: Running, model: str, **settings: Any) -> None:
    page.open(server.url)
    page.until("document.readyState === 'complete' && document.querySelector('.empty') !== null")
    page.run(f"$('model').value = '{model}'; $('model').dispatchEvent(new Event('change'))")
    for name, value in settings.items():
        page.run(f"$('{name}').value = '{value}'")
    page.run("$('text').focus()")


def ask(page: Page, text: str) -> None:
    page.type(text)
    page.press("Enter")
    page.until(IDLE)


def test_a_conversation(page: Page, server: Running, models: Models) -> None:
    opened(page, server, "chat", system="s", longest=9, temperature=0)
    said: list[dict[str, str]] = [{"role": "system", "content": "s"}]
    for question in ("Hello", "<b>Again</b>"):
        ask(page, question)
        said.append({"role": "user", "content": question})
        own = models["chat"].chat(said, max_tokens=9, temperature=0)
        said.append({"role": "assistant", "content": own.text})
        assert page.run(ANSWERS)[-1] == own.text
    assert page.run(texts(".user")) == ["Hello", "<b>Again</b>"]
    facts = page.run("document.querySelector('.assistant .tools').textContent")
    assert facts.startswith(f"{len(own.token_ids)} tokens") and "tokens/s" in facts and "longest answer" in facts
    page.run("[...document.querySelectorAll('.tools button')].at(-1).click()")
    page.until(IDLE)
    assert page.run(ANSWERS) == [said[2]["content"], said[4]["content"]] and page.run("messages.length") == 4
    page.run("$('new').click()")
    assert page.run("messages.length") == 0 and page.run(ANSWERS) == []


def test_probabilities(page: Page, server: Running, models: Models) -> None:
    opened(page, server, "box", longest=12, temperature=0)
    ask(page, "Once upon a time")
    own = models["box"].generate("Once upon a time", max_tokens=12, temperature=0, logprobs=5)
    assert page.run(ANSWERS) == [own.text] and own.logprobs is not None
    assert page.run(texts(".answer span")) == [token.text for token in own.logprobs]
    page.point(".answer span:nth-of-type(4)")
    page.until("!$('tip').hidden")
    assert page.run(texts("#tip .chosen td:first-child")) == [own.logprobs[3].text.replace(" ", "␣")]
    shares = [float(share.removesuffix(" %")) for share in page.run(texts("#tip td:last-child"))]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100.3


def test_stopping(page: Page, server: Running, models: Models) -> None:
    opened(page, server, "slow", longest=4000)
    page.type("a")
    page.press("Enter")
    page.until("$('send').textContent === 'Stop' && document.querySelectorAll('.answer span').length > 3")
    page.press("Escape")
    page.until(IDLE)
    facts = page.run("document.querySelector('.assistant .tools').textContent")
    assert "stopped by you" in facts and int(facts.split()[0]) < 3999
    assert page.run("messages.length") == 2 and page.run("$('send').textContent") == "Send"


def test_errors_and_keys(page: Page, server: Running, models: Models) -> None:
    opened(page, server, "chat")
    page.type("x" * 9000)
    page.press("Enter")
    page.until("document.querySelector('.error') !== null")
    assert "context" in page.run("document.querySelector('.error').textContent")
    assert page.run(ANSWERS) == [] and page.run("$('send').textContent") == "Send"
    with running(app({"chat": models["chat"]}, api_keys=["k"])) as guarded:
        page.open(guarded.url)
        page.until("document.readyState === 'complete' && $('asks').open")
        page.run("$('key').value = 'k'; $('asks').close()")
        page.until("document.querySelector('.empty h2')?.textContent === 'chat'")


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_a_phone(page: Page, server: Running, dark: bool) -> None:
    page.size(360, 640, dark)
    opened(page, server, "box", longest=30, temperature=0)
    page.run("$('more').click()")
    ask(page, "Once upon a time " * 8)
    assert page.run("document.documentElement.scrollWidth") <= 360
    assert page.picture().startswith(b"\x89PNG")
    page.call("Emulation.clearDeviceMetricsOverride")
