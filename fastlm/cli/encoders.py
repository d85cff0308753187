"""The commands for whole texts: embed, classify, tag, fill-mask, answer, rerank."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from fastlm.cli import streams
from fastlm.cli.options import adapter_of, adapter_option, load_model, model_options
from fastlm.cli.outputs import check_output, counting, line_of, output_options, results, table, vector_file
from fastlm.cli.parser import command
from fastlm.cli.texts import GROUP, Item, errors_of, groups, items, text_options
from fastlm.errors import ParameterError

Work = Callable[[Any, Sequence[Any]], Iterable[Any]]  # of a model on some texts: a result for each


def register(commands: Any) -> None:
    """Add the commands to the parser's."""
    _register_embed(commands)
    _register_classify(commands)
    _register_tag(commands)
    _register_fill(commands)
    _register_answer(commands)
    _register_rerank(commands)


# ---- embed --------------------------------------------------------------------------------------------------------


def _register_embed(commands: Any) -> None:
    parser = command(
        commands,
        "embed",
        "turn texts into vectors",
        _embed,
        'fastlm embed --model path/to/all-MiniLM-L6-v2 "A sentence." "Another one."',
        "fastlm embed --model path/to/encoder --out vectors.npy < lines.txt",
        "fastlm embed --model path/to/encoder --file table.csv --column title --out vectors.jsonl",
    )
    text_options(parser)
    model_options(parser, packaged=False)
    adapter_option(parser)
    parser.add_argument("--prompt-name", metavar="NAME", help="of the folder's prompts, that before each text (auto)")
    poolings = "mean, max, cls, lasttoken, mean_sqrt_len_tokens, weightedmean"
    parser.add_argument("--pooling", default="auto", help=f"auto (as the folder says, else mean), {poolings}")
    parser.add_argument("--no-normalize", action="store_true", help="leave vectors as long as they are")
    parser.add_argument("--dimensions", type=int, metavar="N", help="numbers of each vector to keep (all)")
    parser.add_argument("--truncate", action="store_true", help="cut longer texts off, instead of an error")
    output_options(parser, vectors=True)


def _embed(args: argparse.Namespace) -> None:
    check_output(args)
    options = {
        "prompt_name": args.prompt_name,
        "pooling": args.pooling,
        "normalize": False if args.no_normalize else "auto",
        "dimensions": args.dimensions,
        "truncate": args.truncate,
        "adapter": adapter_of(args),
    }

    def work(model: Any, texts: Sequence[Any]) -> Any:
        return model.embed(texts, **options)

    if args.out is None or not args.out.endswith(".npy"):
        over_texts(args, work, _vector_record, lambda item, vector: " ".join(vector.astype(str)) + "\n")
        return
    given = items(args)
    with load_model(args) as model:
        width = work(model, []).shape[1]
        with counting(args) as count, vector_file(args.out, width) as put:
            for group in groups(given):
                with errors_of(group):
                    put(work(model, [item.text for item in group]))
                count(len(group))


def _vector_record(item: Item, vector: Any) -> dict[str, Any]:
    """Numbers as short as float32 allows."""
    return {"text": item.text, "vector": [float(x) for x in vector.astype(str)]}


# ---- classify, tag, fill-mask --------------------------------------------------------------------------------------


def _register_classify(commands: Any) -> None:
    parser = command(
        commands,
        "classify",
        "give texts the labels of a model's head, or labels of your own",
        _classify,
        'fastlm classify --model path/to/classifier "What a day!"',
        'fastlm classify --model path/to/an/nli/model "It rains." --label weather --label sport',
        "fastlm classify --model path/to/nli --file pairs.csv --column premise --column hypothesis --json",
    )
    text_options(parser)
    model_options(parser, packaged=False)
    adapter_option(parser)
    parser.add_argument(
        "--label", action="append", metavar="TEXT", help="tell these apart instead, by inference; repeat it for each"
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="how many labels to give (all)")
    output_options(parser)


def _classify(args: argparse.Namespace) -> None:
    labels = args.label and [streams.utf8(label, "--label") for label in args.label]
    over_texts(
        args,
        lambda model, texts: model.classify(texts, labels=labels, top_k=args.top_k, adapter=adapter_of(args)),
        lambda item, found: {"text": item.text, "labels": [asdict(label) for label in found]},
        lambda item, found: table(
            item.text, [(x.score, x.label) for x in found], all(0 <= x.score <= 1 for x in found)
        ),
    )


def _register_tag(commands: Any) -> None:
    parser = command(
        commands,
        "tag",
        "find names, or whatever the model's head finds, in texts",
        _tag,
        'fastlm tag --model path/to/tagger "Ada Lovelace lived in London."',
        "fastlm tag --model path/to/tagger --file notes.txt --out names.jsonl",
    )
    text_options(parser)
    model_options(parser, packaged=False)
    adapter_option(parser)
    output_options(parser)


def _tag(args: argparse.Namespace) -> None:
    over_texts(
        args,
        lambda model, texts: [model.tag(text, adapter=adapter_of(args)) for text in texts],
        lambda item, found: {"text": item.text, "spans": [asdict(span) for span in found]},
        lambda item, found: table(item.text, [(x.score, f"{x.label}: {x.text}") for x in found]),
        at_once=1,
    )


def _register_fill(commands: Any) -> None:
    parser = command(
        commands,
        "fill-mask",
        "say what the mask in a text may stand for",
        _fill_mask,
        'fastlm fill-mask --model path/to/bert "Paris is the [MASK] of France."',
    )
    text_options(parser)
    model_options(parser, packaged=False)
    adapter_option(parser)
    parser.add_argument("--top-k", type=int, default=5, metavar="N", help="how many words for each mask (5)")
    output_options(parser)


def _fill_mask(args: argparse.Namespace) -> None:
    def work(model: Any, texts: Sequence[Any]) -> list[Any]:
        found = [model.fill_mask(text, args.top_k, adapter=adapter_of(args)) for text in texts]
        return [gaps if isinstance(gaps[0], list) else [gaps] for gaps in found]

    def show(item: Item, gaps: list[Any]) -> str:
        headings = [item.text, *(f"mask {i}" for i in range(2, len(gaps) + 1))]
        return "".join(table(h, [(x.score, x.text) for x in gap]) for h, gap in zip(headings, gaps, strict=True))

    over_texts(
        args,
        work,
        lambda item, gaps: {"text": item.text, "masks": [[asdict(filled) for filled in gap] for gap in gaps]},
        show,
        at_once=1,
    )


# ---- answer, rerank ------------------------------------------------------------------------------------------------


def _register_answer(commands: Any) -> None:
    parser = command(
        commands,
        "answer",
        "find the answer to a question in a text",
        _answer,
        'fastlm answer --model path/to/a/qa/model "Where did Ada live?" "Ada lived in London."',
        'fastlm answer --model path/to/a/qa/model "Who wrote it?" --file article.txt --top-k 3',
    )
    parser.add_argument("question", metavar="QUESTION", help="in quotes")
    text_options(parser, "CONTEXT", whole=True)
    model_options(parser, packaged=False)
    adapter_option(parser)
    parser.add_argument("--top-k", type=int, default=1, metavar="N", help="how many answers for each text (1)")
    output_options(parser)


def _answer(args: argparse.Namespace) -> None:
    question = streams.utf8(args.question, "the question")

    def record(item: Item, found: list[Any]) -> dict[str, Any]:
        spans = [{"score": x.score, "text": x.text, "start": x.start, "end": x.end} for x in found]
        return {"question": question, "context": item.text, "answers": spans}

    over_texts(
        args,
        lambda model, texts: [model.answer(question, text, args.top_k, adapter=adapter_of(args)) for text in texts],
        record,
        lambda item, found: table(item.text, [(x.score, x.text) for x in found]),
        at_once=1,
    )


def _register_rerank(commands: Any) -> None:
    parser = command(
        commands,
        "rerank",
        "sort texts by how well they answer a query",
        _rerank,
        'fastlm rerank --model path/to/a/cross-encoder "a query" "a document" "another"',
        'fastlm rerank --model path/to/a/cross-encoder "a query" --file documents.txt --top-n 10',
    )
    parser.add_argument("query", metavar="QUERY", help="in quotes")
    text_options(parser, "DOCUMENT")
    model_options(parser, packaged=False)
    adapter_option(parser)
    parser.add_argument("--top-n", type=int, metavar="N", help="how many to give (all)")
    output_options(parser)


def _rerank(args: argparse.Namespace) -> None:
    check_output(args)
    query = streams.utf8(args.query, "the query")
    if args.top_n is not None and args.top_n < 1:
        raise ParameterError(f"--top-n must be at least 1, not {args.top_n}")
    given = items(args)
    found: list[tuple[float, int, str]] = []
    with load_model(args) as model, counting(args) as count:
        for group in groups(given):
            with errors_of(group):
                ranked = model.rerank(query, [item.text for item in group], adapter=adapter_of(args))
            begun = len(found)
            found += [(x.score, begun + x.index, x.document) for x in sorted(ranked, key=lambda x: x.index)]
            count(len(group))
    best = sorted(found, key=lambda x: -x[0])[: args.top_n]  # equals stay in their order
    with results(args) as put:
        for score, index, document in best:
            put({"index": index, "score": score, "document": document}, f"{score:9.4f}  {line_of(document)}\n")


def over_texts(
    args: argparse.Namespace,
    work: Work,
    record: Callable[[Item, Any], dict[str, Any]],
    show: Callable[[Item, Any], str],
    at_once: int = GROUP,
) -> None:
    """Some texts at a time: what the model makes of them, as JSON or as text."""
    check_output(args)
    given = items(args)
    with load_model(args) as model, counting(args) as count, results(args) as put:
        for group in groups(given, at_once):
            with errors_of(group):
                found = work(model, [item.text for item in group])
            for item, result in zip(group, found, strict=True):
                put(record(item, result), show(item, result))
            count(len(group))
