"""The same texts with and without a draft, in turns: what speculative decoding wins here, for this pair of models.

    python examples/draft.py TARGET DRAFT [--dtype int8] [--tokens 200] [--temperature 0.7] PROMPT...

DRAFT is a smaller model with the target's vocabulary, or the word lookup.
"""

from __future__ import annotations

import argparse
import statistics

import fastlm

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("draft")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.0)
    args = parser.parse_args()
    options = {"max_tokens": args.tokens, "temperature": args.temperature, "seed": 1}
    with fastlm.load(args.target, dtype=args.dtype) as model:
        if args.draft == "lookup":
            draft: fastlm.Draft | fastlm.Lookup = fastlm.Lookup()
        else:
            draft = fastlm.Draft(fastlm.load(args.draft, dtype=args.dtype, beside=model))
        for prompt in args.prompts:
            rates: dict[bool, list[float]] = {False: [], True: []}
            for drafted in [False, True] * (ROUNDS + 1):
                done = model.generate(prompt, draft=draft if drafted else None, **options)
                rates[drafted].append((len(done.token_ids) - 1) / done.timings.decode_seconds)
            plain, sped = (statistics.median(rates[which][1:]) for which in (False, True))  # the first ones warm up
            print(f"{prompt[:40]!r}: {plain:.1f} tokens/s, with the draft {sped:.1f} ({sped / plain:.2f} times)")
            print(f"  {done.draft}")


if __name__ == "__main__":
    main()
