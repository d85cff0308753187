#!/usr/bin/env bash
# The model in the box, from the text to its card's figures: examples/box.sh CORPUS WORK [STORIES260K]
# CORPUS holds tinystories.txt, storybooks.txt and books.txt; STORIES260K is a checkpoint to compare with. Two hours on
# two processors; repeat it to go on after a break. PUBLISH=1 puts model and figures into the package and docs/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
box=$here/../fastlm/box docs=$here/../docs
corpus=$(cd "$1" && pwd)
stories260k=${3:+$(cd "$3" && pwd)}
mkdir -p "$2"
cd "$2"

texts=("$corpus/tinystories.txt" "$corpus/storybooks.txt" "$corpus/books.txt")
weights=(1.5 1 0.7) # how often an epoch shows each: stories more often than novels
common=(--weights "${weights[@]}" --context 512 --batch 8 --lr 3e-3 --eval-every 250 --save-seconds 120 --threads 2)
student=(--width 256 --layers 4 --heads 4 --kv-heads 2 --ffn 608 --epochs 4)

fastlm train "${texts[@]}" "${common[@]}" --out teacher --vocab 3072 --width 320 --layers 6 --heads 5 --ffn 864 \
    --epochs 8 --dropout 0.1
for seed in 0 1; do
    fastlm distill teacher "${texts[@]}" "${common[@]}" --out "distilled-$seed" "${student[@]}" --seed "$seed" \
        --temperature 1.5 --share 0.8
    fastlm train "${texts[@]}" "${common[@]}" --out "plain-$seed" "${student[@]}" --seed "$seed" --tokenizer teacher
done

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

python "$here/compare.py" "${texts[@]}" --weights "${weights[@]}" --box box.flm --teacher teacher --dtypes int8 int4 \
    --distilled distilled-0 distilled-1 --plain plain-0 plain-1 --gru gru-0 gru-1 --epochs 4 --work . \
    ${stories260k:+--stories260k "$stories260k"} ${PUBLISH:+--card "$box/README.md" --document "$docs/language-models.md"}
if [ -n "${PUBLISH:-}" ]; then cp box.flm "$box/box.flm"; fi
