#!/usr/bin/env bash
# AlexNet on ImageNet, with the locality prior and without: train, record, score and draw.
#
#   ROOT=/data/imagenet experiments/imagenet/run.sh [control] [local]       (both, the control first)
#
# ROOT holds train/ and val/, in each a folder of images per class. By default three seeds, one after the other, on one
# GPU; what else can be set, and its default:
#   GPUS=1          processes, a GPU each (torchrun); a batch of 256 is shared out among them
#   SEEDS=3         networks of each arm
#   RECIPE=ours     SGD 0.01, momentum 0.9, weight decay 1e-4, batch 256, 90 epochs, a tenth every 30; seed: 0.1
#   RUNS=experiments/imagenet/runs     where the runs go: 0.7 GB of weights and checkpoint a network
#   OPTIONS=""      further options of `python main.py train`, such as "--workers 24" or "--transport 1"
#   AGAIN=""        "--resume --overwrite" trains anew what has changed (what dvc.yaml asks for)
#   PYTHON=python
# Interrupted, the same command goes on where it was, also in the midst of an epoch.
set -eu
cd "$(dirname "$0")/../.."
: "${ROOT:?say where ImageNet is: ROOT=/data/imagenet $0}"
gpus="${GPUS:-1}" seeds="${SEEDS:-3}" runs="${RUNS:-experiments/imagenet/runs}" python="${PYTHON:-python}"

case "${RECIPE:-ours}" in
  ours) rate=0.01 ;;
  seed) rate=0.1 ;;
  *) echo "run.sh: error: RECIPE is ours or seed, got $RECIPE" >&2; exit 2 ;;
esac
[ $# -gt 0 ] || set -- control local
for arm in "$@"; do
  case "$arm" in
    control | local) ;;
    *) echo "run.sh: error: an arm is control or local, got $arm" >&2; exit 2 ;;
  esac
done
if [ "$gpus" -gt 1 ]; then
  launch=("$python" -m torch.distributed.run --standalone --nproc-per-node "$gpus")
else
  launch=("$python")
fi

for arm in "$@"; do
  prior=none against=() again="${AGAIN:-}"
  if [ "$arm" = local ]; then
    prior=plane
    if [ -f "$runs/control/scores.csv" ]; then against=(--against "$runs/control"); fi
  fi
  if [ -z "$again" ] && [ -e "$runs/$arm/config.json" ]; then again=--resume; fi
  # shellcheck disable=SC2086  # again and OPTIONS are words
  "${launch[@]}" main.py train "$runs/$arm" --model alexnet --root "$ROOT" --locality "$prior" --lr "$rate" \
    --seeds "$seeds" --precision bf16 --compile --save-every 1000 $again ${OPTIONS:-}
  "$python" main.py record "$runs/$arm" --by label --subset test
  "$python" main.py score "$runs/$arm" "${against[@]}"
  "$python" main.py plot "$runs/$arm"
  "$python" main.py plot "$runs/$arm" --kind maps variance filters "${against[@]}"
done
