"""/v1/embeddings and /v1/rerank"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np

from fastlm.arguments import shown
from fastlm.engine import Engine
from fastlm.results import Usage
from fastlm.server.fields import Fields
from fastlm.server.refusals import refusing, wrong
from fastlm.server.service import Service
from fastlm.server.writing import identity
from fastlm.tasks.embed import embed
from fastlm.tasks.rerank import rerank as rank

OPTIONS: dict[str, Any] = {"dimensions": None, "prompt_name": None, "truncate": False}
EMBEDDING_FIELDS = ("model", "input", "encoding_format", *OPTIONS)
RERANK_FIELDS = ("model", "query", "documents", "top_n", "return_documents")
AT_ONCE = 64  # texts that are run before a client that has gone is noticed


async def embeddings(service: Service, body: Any) -> dict[str, Any]:
    """Vectors of texts."""
    fields = Fields(body, EMBEDDING_FIELDS)
    name, engine = service.engine(fields)
    texts = _texts(fields, engine, service.limits.texts)
    form = fields.text("encoding_format", "float")
    if form not in ("float", "base64"):
        raise wrong("encoding_format", f"encoding_format must be float or base64, not {shown(form)}")
    options = {**OPTIONS, **fields.given(OPTIONS), "pooling": "auto", "normalize": "auto", "progress": None}
    found: list[Any] = []
    with refusing(fields.names, "input"):
        for at in range(0, len(texts), AT_ONCE):
            vectors = await asyncio.to_thread(embed, engine, texts[at : at + AT_ONCE], **options)
            found += [_shaped(vector, form) for vector in vectors]
    usage = await _count(service, name, engine, texts)
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(found)]
    return {"object": "list", "model": name, "data": data, "usage": usage}


def _texts(fields: Fields, engine: Engine, most: int) -> list[str]:
    """The texts; token ids are read as the text that they stand for."""
    given = fields.required("input")
    if isinstance(given, str):
        return [given]
    items = fields.items("input", most)
    if all(isinstance(item, int) for item in items):
        items = [items]
    with refusing(("input",), "input"):
        return [_text(engine, item, f"input[{i}]") for i, item in enumerate(items)]


def _text(engine: Engine, item: Any, where: str) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, list):
        return engine.prompts.needed_tokenizer().decode(engine.prompts.check(item, "input"))
    raise wrong(where, f"{where} must be a string or a list of token ids, not {shown(item)}")


def _shaped(vector: Any, form: str) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()


async def _count(service: Service, name: str, engine: Engine, texts: list[str]) -> dict[str, int]:
    """What was used: the tokens of the texts."""
    tokenizer = engine.prompts.needed_tokenizer()
    n = await asyncio.to_thread(lambda: sum(map(tokenizer.count, texts)))
    service.metrics.used(name, Usage(n, 0, 0))
    return {"prompt_tokens": n, "total_tokens": n}


async def rerank(service: Service, body: Any) -> dict[str, Any]:
    """Documents by how well they answer a query."""
    fields = Fields(body, RERANK_FIELDS)
    name, engine = service.engine(fields)
    query = fields.text("query")
    items = fields.items("documents", service.limits.texts)
    documents = [_document(item, f"documents[{i}]") for i, item in enumerate(items)]
    top_n = fields.count("top_n", len(documents), 1, 2**31 - 1)
    returned = fields.flag("return_documents", True)
    with refusing(fields.names, "documents"):
        scores = await _scores(engine, query, documents)
    order = np.argsort(-scores, kind="stable")[:top_n]
    results = [
        {
            "index": int(i),
            "relevance_score": float(scores[i]),
            **({"document": {"text": documents[i]}} if returned else {}),
        }
        for i in order
    ]
    usage = await _count(service, name, engine, [query, *documents])
    return {"id": identity("rerank-"), "object": "list", "model": name, "results": results, "usage": usage}


async def _scores(engine: Engine, query: str, documents: list[str]) -> Any:
    found = np.empty(len(documents))
    for at in range(0, len(documents), AT_ONCE):
        part = documents[at : at + AT_ONCE]
        for ranked in await asyncio.to_thread(rank, engine, query, part, None, None):
            found[at + ranked.index] = ranked.score
    return found


def _document(item: Any, where: str) -> str:
    text = item.get("text") if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise wrong(where, f"{where} must be a string, or an object with a text, not {shown(item)}")
    return text
