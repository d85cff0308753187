"""The application: which path leads where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from fastlm.drafts import Draft, Lookup
from fastlm.model import Model
from fastlm.server.chat import chat
from fastlm.server.completions import completions
from fastlm.server.endpoints import Application, Door, Handler, Paths, Post
from fastlm.server.http import Receive, Scope, Send, inner_path, reply, reply_text
from fastlm.server.limits import Limits
from fastlm.server.responses import responses
from fastlm.server.service import Service
from fastlm.server.tokens import detokenize, tokenize
from fastlm.server.vectors import embeddings, rerank

POSTS: dict[str, Handler] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completions,
    "/v1/responses": responses,
    "/v1/embeddings": embeddings,
    "/v1/rerank": rerank,
    "/tokenize": tokenize,
    "/detokenize": detokenize,
}


METHODS = ("GET", "POST")  # that pages of other origins may use


def build(
    models: Mapping[str, Model],
    keys: Sequence[bytes],
    cors: Sequence[str],
    hosts: Sequence[bytes],
    limits: Limits,
    drafts: Mapping[str, Draft | Lookup],
) -> Application:
    """See `fastlm.server.app`."""
    service = Service(models, limits, keys, hosts, drafts=drafts)
    posts = {path: Post(path, service, handler) for path, handler in POSTS.items()}
    gets = {path: Get(path, service, show) for path, show in GETS.items()}
    application: Application = Door(Paths(posts, gets), service)
    if cors:
        application = CORSMiddleware(application, allow_origins=list(cors), allow_methods=METHODS, allow_headers=["*"])
    return application


class Get:
    """An endpoint that shows something."""

    def __init__(self, path: str, service: Service, show: Any) -> None:
        self.path = path
        self._service = service
        self._show = show

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._show(self._service, scope)
        if isinstance(found, dict):
            await reply(send, found)
        else:
            kind, text = found
            await reply_text(send, text.encode(), kind, headers=SAFE if kind.startswith("text/html") else None)


# Nothing of another origin is loaded by the page, and no page of another origin shows it.
SAFE = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


def _models(service: Service, scope: Scope) -> dict[str, Any]:
    return {"object": "list", "data": [_card(service, name) for name in service.names()]}


def _model(service: Service, scope: Scope) -> dict[str, Any]:
    return _card(service, inner_path(scope).removeprefix(MODEL))


def _card(service: Service, name: str) -> dict[str, Any]:
    model, adapter = service.named(name)
    parent = next(other for other, one in service.models.items() if one is model)
    return {
        "id": name,
        "object": "model",
        "created": service.begun,
        "owned_by": "fastlm",
        "max_model_len": model.context,
        "tasks": list(model.tasks),
        **({} if adapter is None else {"parent": parent}),
    }


def _health(service: Service, scope: Scope) -> dict[str, Any]:
    return {"status": "ok"}


def _metrics(service: Service, scope: Scope) -> tuple[str, str]:
    return "text/plain; version=0.0.4; charset=utf-8", service.metrics.text(service.models)


def _page(service: Service, scope: Scope) -> tuple[str, str]:
    return "text/html; charset=utf-8", files("fastlm.server").joinpath("page.html").read_text("utf-8")


MODEL = "/v1/models/"
GETS = {  # a path that ends in a stroke goes for all below it
    "/": _page,
    "/health": _health,
    "/metrics": _metrics,
    "/v1/models": _models,
    MODEL: _model,
}
