"""Text <-> token ids: the tokenizer, prompts as callers give them, chat templates."""
