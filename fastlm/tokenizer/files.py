"""Names of the files that tokenizers are in."""

from __future__ import annotations

WHOLE = "tokenizer.json"
CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
BPE_FILES = ("vocab.json", "merges.txt")
WORD_PIECE_FILES = ("vocab.txt",)
SPM_FILES = ("tokenizer.model",)
MARIAN_FILES = ("source.spm", "target.spm", "vocab.json", "target_vocab.json")
M2M100_FILE = "sentencepiece.bpe.model"
MODEL_FILES = (*SPM_FILES, "spiece.model", M2M100_FILE, "spm.model")  # of SentencePiece
TOKENIZER_FILES = (WHOLE, CONFIG, SPECIAL, ADDED, *BPE_FILES, *WORD_PIECE_FILES, *MODEL_FILES, *MARIAN_FILES)
UNREAD = (*MODEL_FILES, "source.spm", "tiktoken.model")
