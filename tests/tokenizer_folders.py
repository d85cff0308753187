"""Small tokenizer folders of many kinds, as transformers and older programs write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import tokenizers
from tokenizer_parts import (
    CORPUS,
    added,
    bytes_bpe,
    save_parts,
    spaced_bpe,
    suffix_bpe,
    template,
    typed,
    unigram,
    word_pieces,
    write,
)
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

# ---- the folders ----------------------------------------------------------------------------------


def gpt2(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>"])
    save_parts(library, folder)
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "gpt2"})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False})


def gpt2_bare(folder: Path) -> None:
    gpt2(folder)
    (folder / "tokenizer_config.json").unlink()


def gpt2_prefix_space(folder: Path) -> None:
    gpt2(folder)
    write(folder, "tokenizer_config.json", {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True})
    write(folder, "special_tokens_map.json", {"bos_token": "<s>", "pad_token": added("<pad>", lstrip=True)})
    write(folder, "added_tokens.json", {"<|new|>": 702, "<tool>": 701, "<pad>": 700})


def _roberta(folder: Path, name: str, model_type: str) -> None:
    library = bytes_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    save_parts(library, folder)
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": model_type})
    names = {"bos_token": "<s>", "eos_token": "</s>", "mask_token": typed("<mask>", lstrip=True)}
    write(folder, "tokenizer_config.json", {"tokenizer_class": name, **names, "trim_offsets": True})


def roberta(folder: Path) -> None:
    _roberta(folder, "RobertaTokenizer", "roberta")


def bart(folder: Path) -> None:
    _roberta(folder, "BartTokenizerFast", "bart")


def opt(folder: Path) -> None:
    library = bytes_bpe(["<s>", "<pad>", "</s>", "<unk>"])
    save_parts(library, folder)
    write(folder, "config.json", {"model_type": "opt"})
    write(
        folder,
        "tokenizer_config.json",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "errors": "replace",
            "unk_token": typed("</s>", normalized=True),
            "bos_token": typed("</s>", normalized=True),
            "eos_token": typed("</s>", normalized=True),
            "pad_token": typed("<pad>", normalized=True),
            "add_prefix_space": False,
            "add_bos_token": True,
        },
    )
    write(folder, "special_tokens_map.json", {"bos_token": added("</s>", normalized=True), "pad_token": "<pad>"})


def codegen(folder: Path) -> None:
    gpt2(folder)
    write(folder, "config.json", {"model_type": "codegen"})
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    write(folder, "tokenizer_config.json", {"tokenizer_class": "CodeGenTokenizer", **names})
    write(folder, "added_tokens.json", {" " * n: 700 + n for n in range(2, 9)})


def phi(folder: Path) -> None:
    codegen(folder)
    write(folder, "config.json", {"model_type": "phi"})


def gpt_neox(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>", "<|padding|>"])
    library.normalizer = normalizers.NFC()
    library.add_tokens([AddedToken(" " * n, normalized=True) for n in (12, 8, 4, 2)])
    save_parts(library, folder)
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "gpt_neox"})
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    write(folder, "tokenizer_config.json", {"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": False, **names})


def qwen2(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    library.normalizer = normalizers.NFC()
    save_parts(library, folder)
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "qwen2"})
    write(
        folder,
        "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                "0": added("<|endoftext|>"),
                "1": added("<|im_start|>"),
                "2": added("<|im_end|>"),
                "700": added("<tool>", special=False),
            },
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "errors": "replace",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def qwen3(folder: Path) -> None:
    qwen2(folder)
    write(folder, "config.json", {"model_type": "qwen3"})


def _llama(folder: Path, model_type: str = "llama", **config: object) -> None:
    library = spaced_bpe(["<unk>", "<s>", "</s>"])
    template(library, "<s> $A:0")
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": model_type})
    names = {"bos_token": typed("<s>"), "eos_token": typed("</s>"), "unk_token": typed("<unk>"), "pad_token": None}
    whole = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **names, **config}
    write(folder, "tokenizer_config.json", whole)
    write(folder, "special_tokens_map.json", {"bos_token": added("<s>", normalized=True), "eos_token": "</s>"})


def llama_legacy(folder: Path) -> None:
    _llama(folder, legacy=True)


def llama(folder: Path) -> None:
    _llama(folder, legacy=False, tokenizer_class="LlamaTokenizerFast", add_eos_token=True)


def llama_without_space(folder: Path) -> None:
    _llama(folder, add_prefix_space=False)


def llama_as_written(folder: Path) -> None:
    _llama(folder, tokenizer_class="PreTrainedTokenizerFast")


def llama_split(folder: Path) -> None:
    _llama(folder, split_special_tokens=True, audio_token="<tool>")


def llama_names(folder: Path) -> None:
    more = {"extra_special_tokens": {"image_token": "<|new|>"}, "additional_special_tokens": ["<|user|>"]}
    _llama(folder, audio_token="<tool>", **more)


def code_llama(folder: Path) -> None:
    _llama(folder, tokenizer_class="CodeLlamaTokenizer", suffix_first=False)


def mistral(folder: Path) -> None:
    _llama(folder, "mistral", legacy=False)


def phi3(folder: Path) -> None:
    decoder = {"0": added("<unk>"), "1": added("<s>"), "2": added("</s>", rstrip=True, special=False)}
    decoder |= {"700": added("<|endoftext|>"), "701": added("<|user|>", rstrip=True)}
    _llama(folder, "phi3", legacy=False, added_tokens_decoder=decoder, eos_token="<|endoftext|>")


def llama3(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>", "<bos>"])
    whole = json.loads(library.to_str())
    whole["model"]["ignore_merges"] = True
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    whole["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, bytes_]}
    whole["model"]["merges"] = [" ".join(pair) for pair in whole["model"]["merges"]]
    library = tokenizers.Tokenizer.from_str(json.dumps(whole))
    template(library, "<bos> $A:0")
    library.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), library.post_processor])
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "llama"})
    names = {"bos_token": "<bos>", "eos_token": "<|endoftext|>"}
    write(
        folder,
        "tokenizer_config.json",
        {
            "added_tokens_decoder": {"0": added("<|endoftext|>"), "1": added("<bos>"), "700": added("<|user|>")},
            "clean_up_tokenization_spaces": True,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **names,
        },
    )


def gemma(folder: Path) -> None:
    library = spaced_bpe(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    library.normalizer = normalizers.Replace(" ", "\u2581")
    library.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    library.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    library.add_tokens([AddedToken("\u2581" * n, normalized=False) for n in (2, 3, 4)])
    library.add_tokens([AddedToken("\n" * n, normalized=False) for n in (1, 2)])
    template(library, "<bos> $A:0")
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "gemma2"})
    listed = json.loads(library.to_str())["added_tokens"]
    decoder = {str(t.pop("id")): t for t in listed}
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {"added_tokens_decoder": decoder, "tokenizer_class": "GemmaTokenizer", "add_bos_token": True, **names}
    write(folder, "tokenizer_config.json", config)


def t5(folder: Path) -> None:
    library = unigram(["<pad>", "</s>", "<unk>"])
    template(library, "$A </s>")
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "t5"})
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    extra = [f"<extra_id_{i}>" for i in range(100)]
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "additional_special_tokens": extra, **names}
    write(folder, "tokenizer_config.json", config)


def t5_bare(folder: Path) -> None:
    t5(folder)
    (folder / "tokenizer_config.json").unlink()


def xlm_roberta(folder: Path) -> None:
    library = unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    template(library, "<s> $A </s>")
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "xlm-roberta"})
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "mask_token": typed("<mask>", lstrip=True)}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer", **names})


def _bert(folder: Path, whole: bool = True, **config: object) -> None:
    pieces = word_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    if whole:
        library = tokenizers.Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
        library.normalizer = normalizers.BertNormalizer()
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.WordPiece()
        library.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        library.add_special_tokens([AddedToken(p, special=True) for p in pieces[:5]])
        library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "bert"})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **config})


def bert(folder: Path) -> None:
    _bert(folder, do_lower_case=True, never_split=["Hello"], do_basic_tokenize=True)


def bert_cased(folder: Path) -> None:
    _bert(folder, do_lower_case=False)


def bert_accents(folder: Path) -> None:
    _bert(folder, tokenizer_class="BertTokenizerFast", strip_accents=False, tokenize_chinese_chars=False)


def distilbert(folder: Path) -> None:
    _bert(folder, tokenizer_class="DistilBertTokenizer", do_lower_case=False, strip_accents=True)
    write(folder, "config.json", {"model_type": "distilbert"})


def bert_bare(folder: Path) -> None:
    _bert(folder)
    (folder / "tokenizer_config.json").unlink()


def mpnet(folder: Path) -> None:
    pieces = [*word_pieces(["<s>", "<pad>", "</s>", "<unk>", "[UNK]"]), "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    write(folder, "config.json", {"model_type": "mpnet"})
    names = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "mask_token": "<mask>"}
    config = {"tokenizer_class": "MPNetTokenizer", "do_lower_case": True, "unk_token": "[UNK]", "pad_token": "<pad>"}
    write(folder, "tokenizer_config.json", {**config, **names})


def bloom(folder: Path) -> None:
    library = bytes_bpe(["<unk>", "<s>", "</s>", "<pad>"])
    pattern = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "bloom"})
    names = {"unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>"}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "BloomTokenizerFast", **names, "padding_side": "left"})


def falcon(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>", ">>TITLE<<"])
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(tokenizers.Regex("[0-9][0-9][0-9]"), "isolated"),
        ]
    )
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "falcon"})
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    write(folder, "tokenizer_config.json", {**config, "special_tokens": [], "add_prefix_space": False})


def starcoder2(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>", "<tool>"])
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    save_parts(library, folder)
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "starcoder2"})
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    write(folder, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", **names, "vocab_size": 700})


def word_level(folder: Path) -> None:
    words = dict.fromkeys(w for text in CORPUS for w in text.lower().split())
    vocab = {w: i for i, w in enumerate(["<unk>", "<pad>", *words])}
    library = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    library.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents()])
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "llama"})
    extra = {"additional_special_tokens": ["<|user|>", typed("<tool>", single_word=True)]}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "pad_token": "<pad>", **extra}
    write(folder, "tokenizer_config.json", {**config, "clean_up_tokenization_spaces": True})


def clip(folder: Path) -> None:
    library = suffix_bpe(["<|endoftext|>", "<|startoftext|>"], byte_level=True)
    save_parts(library, folder)
    write(folder, "config.json", {"model_type": "clip"})
    names = {"bos_token": typed("<|startoftext|>"), "eos_token": typed("<|endoftext|>"), "unk_token": "<|endoftext|>"}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", **names, "pad_token": "<|endoftext|>"})


def openai_gpt(folder: Path) -> None:
    library = suffix_bpe(["<unk>"], byte_level=False)
    save_parts(library, folder)
    write(folder, "config.json", {"model_type": "openai-gpt"})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "OpenAIGPTTokenizer", "unk_token": "<unk>"})


FOLDERS: dict[str, Callable[[Path], None]] = {
    f.__name__: f
    for f in (
        *(gpt2, gpt2_bare, gpt2_prefix_space, roberta, bart, opt, codegen, phi, gpt_neox, qwen2, qwen3, llama_legacy),
        *(
            llama,
            llama_without_space,
            llama_as_written,
            llama_split,
            llama_names,
            code_llama,
            mistral,
            phi3,
            llama3,
            gemma,
            t5,
            t5_bare,
        ),
        *(xlm_roberta, bert, bert_cased, bert_accents, distilbert, bert_bare, mpnet, bloom, falcon, starcoder2),
        *(word_level, clip, openai_gpt),
    )
}
