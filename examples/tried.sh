#!/usr/bin/env bash
# What was tried for the model in the box, students of like size for 300 steps each: examples/tried.sh CORPUS WORK
set -euo pipefail
corpus=$(cd "$1" && pwd)
mkdir -p "$2"
cd "$2"

texts=("$corpus/tinystories.txt" "$corpus/storybooks.txt" "$corpus/books.txt")
common=(--weights 1.5 1 0.7 --context 512 --batch 8 --steps 300 --eval-every 300 --threads 1)
try() { # NAME OPTIONS
    fastlm train "${texts[@]}" "${common[@]}" --out "try-$1" "${@:2}"
}
shape=(--width 256 --layers 4 --heads 4 --kv-heads 2)
try base "${shape[@]}" --vocab 3072 --ffn 608 --lr 3e-3
try vocab-2048 "${shape[@]}" --vocab 2048 --ffn 704 --lr 3e-3
try vocab-4096 "${shape[@]}" --vocab 4096 --ffn 512 --lr 3e-3
try layers-2 --width 320 --layers 2 --heads 5 --vocab 3072 --ffn 864 --lr 3e-3
try layers-8 --width 192 --layers 8 --heads 3 --vocab 3072 --ffn 352 --lr 3e-3
try lr-1e-3 "${shape[@]}" --vocab 3072 --ffn 608 --lr 1e-3
try lr-1e-2 "${shape[@]}" --vocab 3072 --ffn 608 --lr 1e-2
try adamw "${shape[@]}" --vocab 3072 --ffn 608 --lr 3e-3 --optimizer adamw

echo "| tried | bits per byte |"
echo "|---|---:|"
for folder in try-*; do
    sed -n 's/^| all | \(.*\) |$/\1/p' "$folder/README.md" | sed "s/^/| ${folder#try-} | /; s/$/ |/"
done
