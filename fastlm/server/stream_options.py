"""What all streams of completions share: their options, their end, and errors in their midst."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from fastlm.server.fields import Fields
from fastlm.server.http import event
from fastlm.server.refusals import Refusal, wrong

OPTIONS = "stream_options"
DONE = event("[DONE]")


def wants_usage(fields: Fields) -> bool:
    """Whether a last event is to tell what was used."""
    options = fields.table(OPTIONS)
    if options and not fields.flag("stream"):
        raise wrong(OPTIONS, f"{OPTIONS} needs stream: true")
    inner = Fields(options, ("include_usage", "include_obfuscation"))
    inner.only("include_obfuscation", False)
    return inner.flag("include_usage")


def ending(head: Mapping[str, Any], usage: Mapping[str, Any], wanted: bool) -> Iterator[bytes]:
    """The last events."""
    if wanted:
        yield event({**head, "choices": [], "usage": usage})
    yield DONE


async def events_of(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The events; an error in their midst, when the status is sent already, is the last one."""
    try:
        async for data in events:
            yield data
    except Refusal as refusal:
        yield event(refusal.body())
    finally:
        await events.aclose()
