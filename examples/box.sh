#!/usr/bin/env bash
# The model in the box, from the text to its card's figures: examples/box.sh CORPUS WORK [STORIES260K]
# CORPUS holds tinystories.txt, storybooks.txt and books.txt; STORIES260K is a checkpoint to compare with. Some two
# hours on two processors, each job on one of them, its progress in WORK/*.log; repeat it to go on after a break.
# PUBLISH=1 puts model and figures into the package and docs/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
box=$here/../fastlm/box docs=$here/../docs
corpus=$(cd "$1" && pwd)
stories260k=${3:+$(cd "$3" && pwd)}
mkdir -p "$2"
cd "$2"
ln -sfn "$corpus" corpus
ln -sfn "$here" examples

texts="corpus/tinystories.txt corpus/storybooks.txt corpus/books.txt --weights 1.5 1 0.7" # novels less than stories
common="$texts --eval-every 250 --save-seconds 120 --threads 1"
llama="$common --context 512 --batch 8 --lr 3e-3"
student="--width 256 --layers 4 --heads 4 --kv-heads 2 --ffn 608 --epochs 4"
shared="--temperature 1.5 --share 0.8"
gru="$common --tokenizer tokenizer --epochs 4 --batch 16 --length 256 --lr 1e-2 --dropout 0.1" # the best of seven tried

two_at_a_time() { # lines of standard input, each a NAME and the command that makes it
    sed 's/^\([^ ]*\) \(.*\)/echo "\1: begun"; \2 --out \1 > \1.log 2>\&1 \&\& echo "\1: done"/' | tr '\n' '\0' |
        xargs -0 -n 1 -P 2 sh -c
}

[ -d tokenizer ] || python - $texts << 'END'
import shutil, sys
from pathlib import Path
from fastlm.train.corpus import read_texts
from fastlm.train.vocabulary import learn_tokenizer
documents = [text for file in read_texts(sys.argv[1:4]) for text in file.train]
part = Path("tokenizer.part")
shutil.rmtree(part, ignore_errors=True)
part.mkdir()
learn_tokenizer(documents, 3072, part, 512)
part.rename("tokenizer")
END
two_at_a_time << END
teacher fastlm train $llama --tokenizer tokenizer --width 320 --layers 6 --heads 5 --ffn 864 --epochs 8 --dropout 0.1
plain-0 fastlm train $llama --tokenizer tokenizer $student --seed 0
plain-1 fastlm train $llama --tokenizer tokenizer $student --seed 1
gru-0 python examples/gru.py $gru --seed 0
gru-1 python examples/gru.py $gru --seed 1
END
two_at_a_time << END
distilled-0 fastlm distill teacher $llama $student $shared --seed 0
distilled-1 fastlm distill teacher $llama $student $shared --seed 1
END

# the student in float16, to train on: box/; what ships: box.flm
python - << 'END'
import torch, transformers
transformers.AutoModelForCausalLM.from_pretrained("distilled-0", dtype=torch.float16).save_pretrained("box")
END
cp distilled-0/tokenizer.json distilled-0/tokenizer_config.json box
chmod 644 box/*
cat > box/generation_config.json << 'END'
{"bos_token_id": 0, "eos_token_id": 0, "do_sample": true, "temperature": 0.7, "top_p": 0.95}
END
fastlm convert box box.flm --dtype int4

python examples/compare.py $texts --box box.flm --teacher teacher --dtypes int8 int4 --distilled distilled-0 distilled-1 \
    --plain plain-0 plain-1 --gru gru-0 gru-1 --work . \
    ${stories260k:+--stories260k "$stories260k"} ${PUBLISH:+--card "$box/README.md" --document "$docs/language-models.md"}
if [ -n "${PUBLISH:-}" ]; then cp box.flm "$box/box.flm"; fi
