"""Every endpoint through OpenAI's own client, against what the model gives in this process."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from models import add_byte_tokenizer, byte_shape, save_llama
from served import running

import fastlm
from fastlm.server import app

STORY = "Once upon a time"
HELLO: list[Any] = [{"role": "system", "content": "s"}, {"role": "user", "content": "Hello"}]
Models = dict[str, fastlm.Model]


def test_models(client: openai.OpenAI, models: Models) -> None:
    assert [card.id for card in client.models.list()] == list(models)
    assert client.models.retrieve("box").id == "box"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("none")
    assert caught.value.code == "model_not_found"


def test_completion(client: openai.OpenAI, models: Models) -> None:
    done = client.completions.create(model="box", prompt=STORY, max_tokens=20, temperature=0)
    own = models["box"].generate(STORY, max_tokens=20, temperature=0)
    (choice,) = done.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == (own.text, "length", None)
    assert done.usage is not None
    used = (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens)
    assert used == (own.usage.prompt_tokens, 20, own.usage.prompt_tokens + 20)
    assert len(client.completions.create(model="box", prompt=STORY).choices[0].text) > 10  # of 16 tokens


def test_completion_of_many(client: openai.OpenAI, models: Models) -> None:
    """Several prompts, as texts or ids, with n texts each."""
    options: Any = {"max_tokens": 8, "temperature": 0.9, "seed": 3}
    done = client.completions.create(model="box", prompt=[STORY, "The dog"], n=2, **options)
    own = [models["box"].generate(prompt, n=2, **options) for prompt in (STORY, "The dog")]
    texts = [text.text for one in own for text in (one, *one.alternatives)]
    assert [choice.text for choice in done.choices] == texts and len(set(texts)) > 2
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    tokenizer = models["box"].tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode(STORY)
    assert client.completions.create(model="box", prompt=ids, max_tokens=8, temperature=0).choices[0].text in (
        models["box"].generate(ids, max_tokens=8, temperature=0).text
    )


def test_completion_options(client: openai.OpenAI, models: Models) -> None:
    done = client.completions.create(model="box", prompt=STORY, max_tokens=60, temperature=0, stop=["Lily"], echo=True)
    text, finish = done.choices[0].text, done.choices[0].finish_reason
    assert text.startswith(STORY) and "Lily" not in text and finish == "stop"
    assert client.completions.create(model="box", prompt="a", max_tokens=0, echo=True).choices[0].text == "a"
    token = models["box"].generate(STORY, max_tokens=1, temperature=0).token_ids[0]
    biased = client.completions.create(
        model="box", prompt=STORY, max_tokens=1, temperature=0, logit_bias={str(token): -100}, logprobs=0
    )
    assert biased.choices[0].logprobs is not None and biased.choices[0].logprobs.tokens != [
        models["box"].generate(STORY, max_tokens=1, temperature=0).text
    ]
    own: Any = {"top_k": 5, "repetition_penalty": 1.2, "min_p": 0.01}
    options: Any = {"max_tokens": 10, "temperature": 1.0, "seed": 4}
    one = client.completions.create(model="box", prompt=STORY, extra_body=own, **options)
    assert one.choices[0].text == models["box"].generate(STORY, **options, **own).text


def test_completion_logprobs(client: openai.OpenAI, models: Models) -> None:
    done = client.completions.create(model="box", prompt=STORY, max_tokens=5, temperature=0, logprobs=3)
    own = models["box"].generate(STORY, max_tokens=5, temperature=0, logprobs=3)
    found = done.choices[0].logprobs
    assert found is not None and own.logprobs is not None and found.top_logprobs is not None
    assert found.tokens == [token.text for token in own.logprobs]
    assert found.token_logprobs == pytest.approx([token.logprob for token in own.logprobs])
    assert [len(best) for best in found.top_logprobs] == [3] * 5
    assert found.text_offset == [sum(len(t) for t in found.tokens[:i]) for i in range(5)]


def test_logprobs_of_prompts(client: openai.OpenAI, models: Models) -> None:
    """As tools for evaluation ask: echo, with no or one token more."""
    options: Any = {"model": "box", "prompt": [STORY, "The dog"], "echo": True, "temperature": 0}
    for n in (0, 1):
        done = client.completions.create(max_tokens=n, logprobs=2, **options)
        for prompt, choice in zip(options["prompt"], done.choices, strict=True):
            tokenizer, found = models["box"].tokenizer, choice.logprobs
            assert tokenizer is not None and found is not None and found.top_logprobs is not None
            ids = tokenizer.encode(prompt)
            assert found.token_logprobs is not None and len(found.token_logprobs) == len(ids) + n
            assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
            total = sum(found.token_logprobs[1 : len(ids)])
            assert total == pytest.approx(models["box"].loglikelihood(prompt), rel=1e-5)
            assert choice.text.startswith(prompt) and "".join(found.tokens or ()) == choice.text
            for place in range(1, len(ids)):
                row = models["box"].forward(ids[:place], logits="last").logits[0]
                best = found.top_logprobs[place]
                assert best is not None and tokenizer.piece(int(np.argmax(row))) in best


@pytest.mark.parametrize("n", [1, 3])
def test_completion_stream(client: openai.OpenAI, models: Models, n: int) -> None:
    options: Any = {"prompt": STORY, "max_tokens": 30, "temperature": 0.8, "seed": 5, "n": n}
    texts, finishes, usage = [""] * n, [""] * n, None
    for chunk in client.completions.create(model="box", stream=True, stream_options={"include_usage": True}, **options):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
        usage = chunk.usage or usage
    own = models["box"].generate(**options)
    assert texts == [one.text for one in (own, *own.alternatives)] and set(finishes) <= {"stop", "length"}
    assert usage is not None and usage.prompt_tokens == own.usage.prompt_tokens
    assert usage.completion_tokens == sum(len(one.token_ids) for one in (own, *own.alternatives))


def test_chat(client: openai.OpenAI, models: Models) -> None:
    done = client.chat.completions.create(
        model="chat", messages=HELLO, max_completion_tokens=12, temperature=0, logprobs=True, top_logprobs=2
    )
    own = models["chat"].chat(HELLO, max_tokens=12, temperature=0, logprobs=2)
    (choice,) = done.choices
    assert choice.message.role == "assistant" and choice.message.content == own.text
    assert choice.logprobs is not None and choice.logprobs.content is not None and own.logprobs is not None
    assert len(choice.logprobs.content) == len(own.logprobs)
    for said, token in zip(choice.logprobs.content, own.logprobs, strict=True):
        assert said.logprob == pytest.approx(token.logprob) and len(said.top_logprobs) == 2 and said.bytes
    assert done.usage is not None and done.usage.prompt_tokens == own.usage.prompt_tokens


def test_chat_stream(client: openai.OpenAI, models: Models) -> None:
    options: Any = {"messages": HELLO, "max_tokens": 15, "temperature": 0.7, "seed": 9, "n": 2}
    chunks = list(client.chat.completions.create(model="chat", stream=True, **options))
    assert [c.choices[0].delta.role for c in chunks[:2]] == ["assistant"] * 2
    texts = ["", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    own = models["chat"].chat(**options)
    assert texts == [own.text, own.alternatives[0].text]
    assert len({c.id for c in chunks}) == 1 and all(c.usage is None for c in chunks)


def test_chat_of_parts_and_variables(client: openai.OpenAI, models: Models) -> None:
    parts: list[Any] = [{"role": "developer", "content": [{"type": "text", "text": "s"}]}, HELLO[1]]
    options: Any = {"max_tokens": 5, "temperature": 0}
    asked = client.chat.completions.create(model="chat", messages=parts, **options)
    assert asked.choices[0].message.content == models["chat"].chat(HELLO, **options).text
    extra = {"chat_template_kwargs": {"shout": True}}
    asked = client.chat.completions.create(model="chat", messages=HELLO, extra_body=extra, **options)
    own = models["chat"].chat(HELLO, template_kwargs={"shout": True}, **options)
    assert asked.choices[0].message.content == own.text


def test_responses(client: openai.OpenAI, models: Models) -> None:
    options: Any = {"model": "chat", "max_output_tokens": 12, "temperature": 0}
    done = client.responses.create(input="Hello", instructions="s", **options)
    own = models["chat"].chat(HELLO, max_tokens=12, temperature=0)
    assert done.output_text == own.text
    assert done.usage is not None and done.usage.output_tokens == len(own.token_ids)
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]
    with client.responses.stream(input=items, instructions="s", **options) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response() if kinds[-1] == "response.completed" else None
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete")
    assert final is None or final.output_text == own.text
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(input="Hello", previous_response_id="resp_1", **options)
    assert caught.value.param == "previous_response_id"


def test_embeddings(client: openai.OpenAI, models: Models) -> None:
    texts = ["Paris is the capital of France!", "it was too tired"]
    own = models["vectors"].embed(texts)
    found = client.embeddings.create(model="vectors", input=texts, encoding_format="float")
    np.testing.assert_allclose([one.embedding for one in found.data], own, rtol=1e-6)
    assert found.usage.prompt_tokens == found.usage.total_tokens > 10
    short = client.embeddings.create(model="vectors", input=texts[0], dimensions=8)  # base64, as the client asks
    np.testing.assert_array_equal(np.float32(short.data[0].embedding), models["vectors"].embed(texts[0], dimensions=8))
    raw = client.embeddings.with_raw_response.create(model="vectors", input=texts[0], encoding_format="base64")
    data = raw.http_response.json()["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(data), "<f4"), own[0])


def test_rerank_and_tokens(server: Any, models: Models) -> None:
    documents = ["it was wide", "Paris is of France", "street"]
    body = {"model": "scores", "query": "Who?", "documents": documents, "top_n": 2}
    status, _, found = server.post("/v1/rerank", body)
    own = models["scores"].rerank("Who?", documents, top_n=2)
    assert status == 200 and [r["index"] for r in found["results"]] == [r.index for r in own]
    assert [r["relevance_score"] for r in found["results"]] == pytest.approx([r.score for r in own])
    assert found["results"][0]["document"]["text"] == own[0].document
    tokenizer = models["box"].tokenizer
    assert tokenizer is not None
    _, _, found = server.post("/tokenize", {"model": "box", "prompt": STORY})
    assert found["tokens"] == tokenizer.encode(STORY) and found["count"] == len(found["tokens"])
    _, _, back = server.post("/detokenize", {"model": "box", "tokens": found["tokens"]})
    assert back == {"prompt": STORY}
    _, _, found = server.post("/tokenize", {"model": "chat", "messages": HELLO})
    assert found["tokens"] == models["chat"].chat_prompt(HELLO)


def test_health_metrics_and_page(server: Any, client: openai.OpenAI) -> None:
    client.completions.create(model="box", prompt=STORY, max_tokens=3)
    assert server.get("/health")[::2] == (200, b'{"status":"ok"}')
    status, headers, text = server.get("/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    lines = text.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['fastlm_requests_total{path="/v1/completions",status="200"}']) >= 1
    assert float(values['fastlm_tokens_total{model="box",kind="completion"}']) >= 3
    assert values["fastlm_requests_in_progress"] == "0"
    status, headers, page = server.get("/")
    assert status == 200 and b"/v1/chat/completions" in page and b"//" not in page.split(b"<script>")[0]
    assert "default-src 'none'" in headers["content-security-policy"]


def test_beams_of_a_model_give_way(tmp_path: Path) -> None:
    """generation_config.json asks for beams: they count until a request wants what they cannot give."""
    folder = add_byte_tokenizer(save_llama(tmp_path, byte_shape()))
    (folder / "generation_config.json").write_text('{"num_beams": 3}')
    with fastlm.load(folder, threads=1) as model, running(app(model)) as server:

        def texts(**fields: Any) -> list[str]:
            body = {"model": "fastlm", "prompt": ["One", "Two"], "max_tokens": 6, **fields}
            status, _, answer = server.post("/v1/completions", body)
            assert status == 200, answer
            return [choice["text"] for choice in answer["choices"]]

        beams, greedy = ([model.generate(p, max_tokens=6, num_beams=n).text for p in ("One", "Two")] for n in (3, 1))
        assert beams != greedy
        assert texts() == texts(temperature=0) == beams
        assert texts(logprobs=1) == texts(stop=["\x00\x01"]) == greedy
        assert texts(n=2) == [text for text in greedy for _ in range(2)]
        assert len(texts(temperature=0.7, n=4)) == 8
