"""/tokenize and /detokenize"""

from __future__ import annotations

import asyncio
from typing import Any

from fastlm.server.fields import Fields
from fastlm.server.messages import messages_of
from fastlm.server.refusals import refusing
from fastlm.server.service import Service
from fastlm.tasks.chat import chat_ids

TOKENIZE_FIELDS = ("model", "prompt", "messages", "add_special_tokens", "return_token_strs", "chat_template_kwargs")
DETOKENIZE_FIELDS = ("model", "tokens")


async def tokenize(service: Service, body: Any) -> dict[str, Any]:
    """Token ids of a text, or of a conversation."""
    fields = Fields(body, TOKENIZE_FIELDS)
    _, engine = service.only_engine(fields)
    with refusing(fields.names, "messages" if "messages" in fields else "prompt"):
        tokenizer = engine.prompts.needed_tokenizer()
        if "messages" in fields:
            messages = messages_of(fields.required("messages"), engine)
            variables = fields.table("chat_template_kwargs")
            ids = await asyncio.to_thread(chat_ids, engine, messages, variables)
        else:
            text, special = fields.text("prompt"), fields.flag("add_special_tokens", True)
            ids = await asyncio.to_thread(lambda: tokenizer.encode(text, special=special))
    found = {"tokens": ids, "count": len(ids), "max_model_len": engine.longest}
    if fields.flag("return_token_strs"):
        found["token_strs"] = [tokenizer.name_of(token) for token in ids]
    return found


async def detokenize(service: Service, body: Any) -> dict[str, Any]:
    """The text of token ids."""
    fields = Fields(body, DETOKENIZE_FIELDS)
    _, engine = service.only_engine(fields)
    with refusing(fields.names, "tokens"):
        ids = engine.prompts.check(fields.required("tokens"), "tokens")
        return {"prompt": await asyncio.to_thread(engine.prompts.needed_tokenizer().decode, ids)}
