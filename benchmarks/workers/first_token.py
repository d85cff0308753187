"""A cold process: import fastlm, open a .flm file, read a prompt, choose a token. Prints when each was done.

usage: first_token.py FILE.flm THREADS
"""

import json
import sys
import time

times = {"interpreter": time.monotonic()}

import fastlm  # noqa: E402

times["import"] = time.monotonic()
model = fastlm.load(sys.argv[1], threads=int(sys.argv[2]))
times["open"] = time.monotonic()
model.generate([1, *range(42, 57)], max_tokens=1, temperature=0, ignore_eos=True)
times["first token"] = time.monotonic()
print(json.dumps(times))
