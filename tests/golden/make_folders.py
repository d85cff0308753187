"""Record what sentence-transformers and transformers' pipelines compute with folders of tiny random models.

Needs torch, transformers and sentence-transformers; the test suite does not run it:
`PYTHONPATH=.:tests python tests/golden/make_folders.py [name ...]`

A golden holds the small files that sentence-transformers wrote (or, of older dialects, files as it once wrote them),
case.json, which names the model that they belong to (tests/folder_models.py makes it anew), and what came of it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers as st
import torch
import transformers
from folder_models import BASES, DOCUMENTS, FOLDERS, MASKED, QUERY, TAGGED, TEXTS, compose
from safetensors.numpy import save_file
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling, StaticEmbedding
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tokenizers import Tokenizer, normalizers

Made = dict[str, Any]
CASES: dict[str, Callable[[Path], Made]] = {}
TOKENS = "token_embeddings"
NOT_KEPT = ("README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def case(base: str) -> Callable[[Callable[[Path, Path], Made]], Callable[[Path, Path], Made]]:
    def register(make: Callable[[Path, Path], Made]) -> Callable[[Path, Path], Made]:
        def made(out: Path) -> Made:
            with tempfile.TemporaryDirectory() as scratch:
                model = Path(scratch) / "model"
                if base:
                    BASES[base](model)
                (out / "case.json").write_text(json.dumps({"base": base}))
                return make(model, out)

        CASES[make.__name__] = made
        return make

    return register


def keep(model: Any, out: Path, *also: str) -> None:
    """Save a model, and keep the small files."""
    with tempfile.TemporaryDirectory() as scratch:
        model.save(scratch)
        for path in Path(scratch).iterdir():
            if path.is_dir() or path.name not in NOT_KEPT or path.name in also:
                (shutil.copytree if path.is_dir() else shutil.copy)(path, out / path.name)


def write(out: Path, files: dict[str, object]) -> None:
    for name, value in files.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(json.dumps(value, indent=2) + "\n")


def loaded(kind: Any, out: Path) -> Any:
    """The whole folder by the library's own reader."""
    with tempfile.TemporaryDirectory() as scratch:
        return kind(str(compose(Path(scratch) / "model", out.name)), device="cpu")


def vectors(out: Path, **prompts: str) -> Made:
    model = loaded(st.SentenceTransformer, out)
    return {name: model.encode(TEXTS, prompt_name=prompt) for name, prompt in {"": None, **prompts}.items()}


@case("bert")
def pooled_list(model: Path, out: Path) -> Made:
    pooling = Pooling(32, pooling_mode=("weightedmean", "cls", "max"), include_prompt=False)
    prompts = {"query": "who is it ", "none": ""}
    modules = [Transformer(str(model)), pooling]
    keep(st.SentenceTransformer(modules=modules, prompts=prompts, default_prompt_name="query"), out)
    return vectors(out, none="none")


def old(out: Path, pooling: dict[str, object], limits: dict[str, object], *more: str) -> None:
    """Files as sentence-transformers 2 wrote them."""
    kinds = ["Transformer", "Pooling", *more]
    paths = ["", *(f"{i + 1}_{kind}" for i, kind in enumerate(kinds[1:]))]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    flags = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    config = {"word_embedding_dimension": 32, **{f"pooling_mode_{flag}": False for flag in flags}, **pooling}
    versions = {"__version__": {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}}
    files = {"modules.json": listed, "1_Pooling/config.json": config, "sentence_bert_config.json": limits}
    write(out, {**files, "config_sentence_transformers.json": versions})


@case("bert")
def pooled_old(model: Path, out: Path) -> Made:
    """Two flags, lower case by the folder alone, and a limit that cuts off."""
    flags = {"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_lasttoken": True}
    old(out, flags, {"max_seq_length": 7, "do_lower_case": True}, "Normalize")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = json.loads((model / "tokenizer_config.json").read_text())  # whose class would have its own normaliser
    write(out, {"tokenizer_config.json": {**settings, "tokenizer_class": "PreTrainedTokenizerFast"}})
    return vectors(out)


@case("bert")
def pooled_first(model: Path, out: Path) -> Made:
    old(out, {"pooling_mode_cls_token": True}, {"max_seq_length": 32, "do_lower_case": False}, "Normalize")
    return vectors(out)


@case("words")
def dense(model: Path, out: Path) -> Made:
    torch.manual_seed(0)
    steps = [
        Dense(32, 24, activation_function=torch.nn.GELU()),
        LayerNorm(24),
        Normalize(),
        Dense(24, 24, bias=False, activation_function=torch.nn.SiLU(), use_residual=True),
        Dense(24, 20, activation_function=torch.nn.Sigmoid(), use_residual=True),
        Normalize(),
    ]
    torch.nn.init.normal_(steps[1].norm.weight)
    torch.nn.init.normal_(steps[1].norm.bias)
    modules = [Transformer(str(model)), Pooling(32), *steps]
    keep(st.SentenceTransformer(modules=modules), out)
    return vectors(out)


@case("bert")
def dense_tokens(model: Path, out: Path) -> Made:
    torch.manual_seed(1)
    before = Dense(32, 12, activation_function=torch.nn.ReLU(), module_input_name=TOKENS)
    modules = [Transformer(str(model)), before, Pooling(12, "mean"), Dense(12, 8)]
    keep(st.SentenceTransformer(modules=modules, truncate_dim=6), out)
    return vectors(out)


@case("")
def static(model: Path, out: Path) -> Made:
    torch.manual_seed(2)
    tokenizer = Tokenizer.from_file(str(BASES["bert"](model) / "tokenizer.json"))
    embedding = StaticEmbedding(tokenizer, embedding_dim=12)
    keep(st.SentenceTransformer(modules=[embedding, Normalize()]), out, "model.safetensors", "tokenizer.json")
    return {"": loaded(st.SentenceTransformer, out).encode(TEXTS)}


@case("")
def model2vec(model: Path, out: Path) -> Made:
    """Rows that tokens share, and their weights; in a folder of its own, as other modules have."""
    rng = np.random.default_rng(3)
    inner = out / "0_StaticEmbedding"
    inner.mkdir()
    tokenizer = Tokenizer.from_file(str(BASES["bert"](model) / "tokenizer.json"))
    tokenizer.save(str(inner / "tokenizer.json"))
    n = tokenizer.get_vocab_size()
    table = {
        "embeddings": rng.standard_normal((40, 10)).astype(np.float16),
        "mapping": rng.integers(0, 40, n),
        "weights": rng.uniform(0.2, 2, n),
    }
    save_file(table, inner / "model.safetensors")
    kind = "sentence_transformers.models.StaticEmbedding"
    write(out, {"modules.json": [{"idx": 0, "name": "0", "path": "0_StaticEmbedding", "type": kind}]})
    return {"": loaded(st.SentenceTransformer, out).encode(TEXTS)}


def words(out: Path) -> Made:
    model = loaded(st.SparseEncoder, out)
    found = model.encode(TEXTS, convert_to_tensor=False)
    decoded = [model.decode(row) for row in found]
    return {"sparse": [{name: float(value) for name, value in row} for row in decoded]}


@case("words")
def splade(model: Path, out: Path) -> Made:
    keep(st.SparseEncoder(modules=[Transformer(str(model), transformer_task="fill-mask"), SpladePooling()]), out)
    return words(out)


@case("words")
def splade_sum(model: Path, out: Path) -> Made:
    """As sentence-transformers 5 wrote it."""
    kinds = {"": "MLMTransformer", "1_SpladePooling": "SpladePooling"}
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.sparse_encoder.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    config = {"pooling_strategy": "sum", "activation_function": "log1p_relu", "word_embedding_dimension": None}
    limits = {"max_seq_length": 32, "do_lower_case": False}
    files = {"modules.json": listed, "1_SpladePooling/config.json": config, "sentence_bert_config.json": limits}
    write(out, {**files, "config_sentence_transformers.json": {"model_type": "SparseEncoder"}})
    return words(out)


def tokens(out: Path) -> Made:
    model = loaded(st.MultiVectorEncoder, out)
    queries, documents = model.encode_query([QUERY, "who"]), model.encode_document(TEXTS)
    scores = model.similarity([torch.as_tensor(q) for q in queries], [torch.as_tensor(d) for d in documents]).numpy()
    made = {f"query{i}": np.asarray(q) for i, q in enumerate(queries)}
    return made | {f"document{i}": np.asarray(d) for i, d in enumerate(documents)} | {"scores": scores}


def late(model: Path, out: Path, attend: bool) -> Made:
    torch.manual_seed(4)
    expansion = {"strategy": "fixed", "attend": attend, "length": 12}
    modules = [
        Transformer(str(model), query_expansion=expansion, document_length=20),
        Dense(32, 16, bias=False, activation_function=torch.nn.Identity(), module_input_name=TOKENS),
        MultiVectorMask(skiplist_words=[".", "?", "street"]),
        Normalize(module_input_name=TOKENS),
    ]
    keep(st.MultiVectorEncoder(modules=modules, prompts={"query": "who ", "document": "the "}), out)
    return tokens(out)


@case("bert")
def late_attended(model: Path, out: Path) -> Made:
    return late(model, out, attend=True)


@case("bert")
def late_apart(model: Path, out: Path) -> Made:
    return late(model, out, attend=False)


@case("bert")
def late_pylate(model: Path, out: Path) -> Made:
    """As PyLate 1 wrote it: marks of queries and documents that are tokens, no mask and no norm in the list."""
    torch.manual_seed(5)
    with tempfile.TemporaryDirectory() as scratch:
        step = Dense(32, 16, bias=False, activation_function=torch.nn.Identity())
        step.save(scratch)
        (out / "1_Dense").mkdir()
        shutil.copy(f"{scratch}/model.safetensors", out / "1_Dense")
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds.items())]
    identity = "torch.nn.modules.linear.Identity"
    config = {"in_features": 32, "out_features": 16, "bias": False, "activation_function": identity}
    settings = {
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "model_type": "ColBERT",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 12,
        "document_length": 20,
        "attend_to_expansion_tokens": True,
        "skiplist_words": [",", "."],
        "do_query_expansion": True,
    }
    limits = {"max_seq_length": 20, "do_lower_case": False}
    files = {"modules.json": listed, "1_Dense/config.json": config, "sentence_bert_config.json": limits}
    write(out, {**files, "config_sentence_transformers.json": settings})
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.save(str(out / "tokenizer.json"))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    write(out, {"tokenizer_config.json": {**settings, "model_max_length": 20}})
    return tokens(out)


@case("colbert")
def late_stanford(model: Path, out: Path) -> Made:
    return tokens(out)


def ranks(out: Path, kind: Any = st.CrossEncoder) -> Made:
    model = loaded(kind, out)
    return {"ranks": model.predict([(QUERY, document) for document in DOCUMENTS])}


@case("label")
def cross(model: Path, out: Path) -> Made:
    asks = {"prompts": {"ask": "it is "}, "default_prompt_name": "ask"}
    keep(st.CrossEncoder(str(model), activation_fn=torch.nn.Tanh(), **asks), out)
    return ranks(out)


@case("label")
def cross_old(model: Path, out: Path) -> Made:
    config = json.loads((model / "config.json").read_text())
    name = "sbert_ce_default_activation_function"
    write(out, {"config.json": {**config, name: "torch.nn.modules.linear.Identity"}})
    return ranks(out)


@case("label")
def cross_plain(model: Path, out: Path) -> Made:
    return ranks(out)


def yes_or_no(model: Path, out: Path, false: int | None, **options: Any) -> Made:
    transformer = Transformer(str(model), transformer_task="text-generation", **options.pop("transformer", {}))
    keep(st.CrossEncoder(modules=[transformer, LogitScore(89, false)], **options), out)
    return ranks(out)


@case("decoder")
def causal(model: Path, out: Path) -> Made:
    return yes_or_no(model, out, 78)


@case("asked")
def causal_asked(model: Path, out: Path) -> Made:
    more = {"processing_kwargs": {"chat_template": {"add_generation_prompt": True}}}
    prompts = {"prompts": {"web": "Is it so?"}, "default_prompt_name": "web"}
    return yes_or_no(model, out, None, transformer=more, activation_fn=torch.nn.Identity(), **prompts)


def pipeline(task: str, out: Path, **options: Any) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(compose(Path(scratch) / "model", out.name))
        return transformers.pipeline(task, model=folder, device="cpu", **options)


@case("labels")
def labelled(model: Path, out: Path) -> Made:
    """Labels of texts and a pair; labels of one's own, many and one."""
    pipe = pipeline("text-classification", out, top_k=None)
    pair = pipe({"text": QUERY, "text_pair": DOCUMENTS[0]})
    own = pipeline("zero-shot-classification", out)
    zero = [own(TEXTS[0], labels) for labels in (["street", "animal", "it"], ["animal"])]
    return {"labels": [*pipe(TEXTS), pair], "zero": [{k: v for k, v in one.items() if k != "sequence"} for one in zero]}


@case("tags")
def tagged(model: Path, out: Path) -> Made:
    pipe = pipeline("token-classification", out, aggregation_strategy="first")
    found = pipe([*TEXTS, TAGGED])
    return {"tags": [[{**span, "score": float(span["score"])} for span in spans] for spans in found]}


@case("words")
def filled(model: Path, out: Path) -> Made:
    pipe = pipeline("fill-mask", out, top_k=4)
    return {"filled": [pipe(text) for text in MASKED]}


def make(name: str) -> None:
    out = FOLDERS / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    made = CASES[name](out)
    arrays = {key or "vectors": value for key, value in made.items() if isinstance(value, np.ndarray)}
    others = {key: value for key, value in made.items() if not isinstance(value, np.ndarray)}
    if arrays:
        np.savez_compressed(out / "expected.npz", **arrays)
    if others:
        (out / "expected.json").write_text(json.dumps(others, indent=1) + "\n")
    print(f"{name}: {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1024:.0f} KiB")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for chosen in sys.argv[1:] or CASES:
        make(chosen)
