"""What all endpoints share: the models and adapters by name, who may ask, and how much at a time."""

from __future__ import annotations

import hmac
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from fastlm.drafts import Draft, Lookup
from fastlm.engine import Engine
from fastlm.model import Model
from fastlm.server.fields import Fields
from fastlm.server.http import Scope, header, inner_path
from fastlm.server.limits import Limits
from fastlm.server.metrics import Metrics
from fastlm.server.refusals import Refusal, busy

OPEN = ("/", "/health")  # what needs no key


@dataclass(frozen=True, slots=True)
class Service:
    """A server's state.

    Attributes
    ----------
    models
        By the names that requests give.
    keys
        Any of which a request must bring; none: no request needs one.
    hosts
        Names that the header Host may have; none: any.
    salt
        Of who asks: a key's requests share prefixes with each other, and not with those of other keys.
    drafts
        What proposes tokens for a model, by its name.
    """

    models: Mapping[str, Model]
    limits: Limits
    keys: Sequence[bytes] = ()
    hosts: Sequence[bytes] = ()
    salt: int = 0
    drafts: Mapping[str, Draft | Lookup] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    begun: int = field(default_factory=lambda: int(time.time()))
    _clients: Counter[str] = field(default_factory=Counter)

    def names(self) -> dict[str, tuple[Model, str | None]]:
        """What requests may name as their model: models, and the adapters that these have loaded, with their models."""
        found: dict[str, tuple[Model, str | None]] = {name: (model, None) for name, model in self.models.items()}
        for model in self.models.values():
            for adapter in model.engine.adapters.loaded():
                found.setdefault(adapter, (model, adapter))
        return found

    def named(self, name: str) -> tuple[Model, str | None]:
        """The model of this name, or the adapter and its model."""
        names = self.names()
        if name not in names:
            text = f"The model {name[:200]!r} does not exist; known are: {', '.join(names)}"
            raise Refusal(404, text, param="model", code="model_not_found")
        return names[name]

    def engine(self, fields: Fields) -> tuple[str, Engine]:
        """The model that a request names, as who asks may use it."""
        name = fields.text("model")
        model, adapter = self.named(name)
        base = name if adapter is None else next(own for own, served in self.models.items() if served is model)
        return name, replace(model.engine.adapted(adapter), salt=self.salt, draft=self.drafts.get(base))

    def only_engine(self, fields: Fields) -> tuple[str, Engine]:
        """As `engine`, but that the name may be left out where there is one model only."""
        if "model" not in fields and len(self.models) == 1:
            return next((name, model.engine) for name, model in self.models.items())
        return self.engine(fields)

    def of(self, scope: Scope) -> Service:
        """The same for who asks."""
        return replace(self, salt=self._matches(_key(scope)).index(True) + 1) if self.keys else self

    def _matches(self, given: bytes) -> list[bool]:
        """Which of the keys it is; all are compared, so that time tells nothing."""
        return [hmac.compare_digest(given, key) for key in self.keys]

    def check(self, scope: Scope) -> None:
        """Refuse who brings no key, or asks for another host: a stranger's page whose name leads here."""
        host = header(scope, b"host").lower()
        name = host.partition(b"]")[0] + b"]" if host.startswith(b"[") else host.partition(b":")[0]
        if self.hosts and name not in self.hosts:
            raise Refusal(403, "this server does not go by the name in the header Host", code="wrong_host")
        if not self.keys or inner_path(scope) in OPEN:
            return
        given = _key(scope)
        if not any(self._matches(given)):
            text = (
                "Incorrect API key provided" if given else "You did not provide an API key: Authorization: Bearer KEY"
            )
            raise Refusal(401, text, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    @contextmanager
    def place(self, scope: Scope) -> Iterator[None]:
        """A place among the requests that are answered at a time."""
        client = _key(scope).decode("latin-1") if self.keys else str((scope.get("client") or ("",))[0])
        if self.metrics.in_progress >= self.limits.requests:
            raise busy("the server answers as many requests as it can: try again soon")
        if self._clients[client] >= self.limits.requests_each:
            raise busy("too many of your requests are answered at a time: try again soon", 429, "rate_limit_exceeded")
        self._clients[client] += 1
        self.metrics.in_progress += 1
        try:
            yield
        finally:
            self.metrics.in_progress -= 1
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


def _key(scope: Scope) -> bytes:
    """What a request brings as its key."""
    scheme, _, key = header(scope, b"authorization").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
