#!/usr/bin/env bash
# Tests marked `gpu` and all benchmarks on one CUDA device; results go to
# ${OUT:-benchmarks/results/gpu}. Everything is tried, also after a failure, within nine minutes.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
out=${OUT:-benchmarks/results/gpu}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

if ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: PyTorch sees no CUDA device here; nothing to do"
    exit 0
fi
mkdir -p "$out"
failed=0

attempt() {
    local name=$1 limit=$2
    shift 2
    echo "==> $*"
    timeout "$limit" "$@" 2>&1 | tee "$out/$name.log" || failed=1
}

# Pytest's status 5 says that no test is marked; that is no failure.
attempt tests 240 bash -c 'python3 -m pytest -m gpu || [[ $? == 5 ]]'
attempt execution 120 python3 -m benchmarks execution --device cuda --out "$out/execution.json"
attempt decoding-step 150 \
    python3 -m benchmarks decoding-step --device cuda --out "$out/decoding-step.json"
exit "$failed"
