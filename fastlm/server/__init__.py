"""An OpenAI-compatible server: `fastlm serve`, or `app(models)`, an ASGI application to run or mount in one's own.

It needs the extra: pip install 'fastlm[server]'. docs/server.md says what it answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fastlm.arguments import shown
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.server.limits import Limits

if TYPE_CHECKING:
    from fastlm.drafts import Draft, Lookup
    from fastlm.model import Model

__all__ = ["Limits", "app"]

MAX_KEYS = 2**16 - 1  # each of which is a salt of the core


def app(
    models: Mapping[str, Model] | Model,
    *,
    api_keys: Iterable[str] = (),
    cors: Iterable[str] = (),
    hosts: Iterable[str] = (),
    limits: Limits | None = None,
    drafts: Mapping[str, Draft | Lookup] | None = None,
) -> Any:
    """An ASGI application that answers for models.

    Parameters
    ----------
    models
        By the names that requests give; a model alone goes by "fastlm". They stay open when the application ends. The
        adapters that they have loaded, now or later, are models, too, by their own names.
    api_keys
        Any of which a request must bring, `Authorization: Bearer KEY`; none: anybody may ask. Requests of one key share
        the prefixes that are kept of their prompts, those of others have their own.
    cors
        Origins whose pages may ask, such as "https://example.org", or "*" for all; none: no page of another origin.
    hosts
        Names that the header Host may have; none: any.
    limits
        How much it takes on.
    drafts
        What proposes tokens for a model, by its name; answers are the same, and come sooner.

    Raises
    ------
    ParameterError
        There is no model, two things have one name, or a key is empty.
    UnsupportedError
        Starlette is not installed.
    """
    try:
        from fastlm.server.build import build
    except ImportError as error:
        raise UnsupportedError(f"the server needs its extra: pip install 'fastlm[server]' ({error})") from error
    named = dict(models) if isinstance(models, Mapping) else {"fastlm": models}
    if not named:
        raise ParameterError("models: there is none to answer for")
    names = [*named, *(adapter for model in named.values() for adapter in model.engine.adapters.loaded())]
    if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
        raise ParameterError(f"models: {shown(twice)} is the name of two models or adapters: give one of them another")
    keys = [key.encode("utf-8") for key in api_keys]
    if not all(keys) or len(keys) > MAX_KEYS:
        raise ParameterError(f"api_keys: one is empty, or there are more than {MAX_KEYS}")
    served = [host.lower().encode("ascii") for host in hosts]
    if strange := set(drafts or {}) - set(named):
        raise ParameterError(f"drafts: there is no model called {min(strange)!r}; known are: {', '.join(named)}")
    for name, draft in (drafts or {}).items():
        named[name].generate([0], max_tokens=0, num_beams=1, draft=draft)  # says what is wrong before a request does
    return build(named, keys, list(cors), served, limits or Limits(), drafts or {})
