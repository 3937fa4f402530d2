#!/usr/bin/env bash
# What a GPU makes of it, in minutes: the gpu-marked tests, epochs, replicas, costs on and off, AlexNet
# on image files, peak memory.
# Needs this repository and a Python (PYTHON=..., default python3) with torch, pytest and the other packages of
# requirements.txt but dvc; no network and no data: images are generated. Tables go to results/*-cuda.csv.
set -u
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
bench=experiments/benchmarks
export MPLBACKEND=Agg PYTHONUNBUFFERED=1
failed=0
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "gpu.sh: error: $python sees no GPU" >&2; exit 2; }

run() { echo; echo "\$ $*"; "$@" || { failed=1; echo "FAILED: $*"; }; }
run "$python" -m pytest -q -p no:cacheprovider -m gpu tests
run "$python" $bench/step.py --device cuda --compile --memory 4096 -- 300 1000 4096
run "$python" $bench/epoch.py --device cuda
run "$python" $bench/seeds.py --device cuda 100 300 1000
run "$python" $bench/loader.py --device cuda --compile --costs
run "$python" $bench/table.py cuda
exit $failed
