#!/usr/bin/env bash
# Tests marked `gpu` and all GPU benchmarks on one CUDA device, PyJuice beside; results go to
# ${OUT:-benchmarks/results/gpu}. Everything is tried, also after a failure; limits add up to less
# than eight minutes. What Python lacks is installed for this run alone from the wheels in
# ${WHEELS:-benchmarks/wheels}, without a network: `pip download --no-deps -d benchmarks/wheels
# pyjuice` on a machine that has one, and what else the first lines of the output name.
# DEVICE=cpu tries the benchmarks at tiny sizes instead.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
out=${OUT:-benchmarks/results/gpu}
wheels=${WHEELS:-benchmarks/wheels}
device=${DEVICE:-cuda}
python=${PYTHON:-python3}
site=$(mktemp -d) || exit 1
trap 'rm -rf "$site"' EXIT
export PYTHONPATH=$PWD:$site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

if [[ $device == cuda ]] &&
    ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: PyTorch sees no CUDA device here; nothing to do"
    exit 0
fi
mkdir -p "$out"
failed=0

# Prints those of its arguments that Python cannot import.
missing() {
    "$python" - "$@" <<'PYTHON'
import importlib.util, sys

print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
PYTHON
}

attempt() {
    local name=$1 limit=$2
    shift 2
    echo "==> $*"
    local start=$SECONDS
    timeout "$limit" "$@" 2>&1 | tee "$out/$name.log" || failed=1
    echo "==> $name took $((SECONDS - start)) s of $limit"
}

compare() {
    local name=$1 limit=$2
    shift 2
    attempt "$name" "$limit" "$python" -m benchmarks compare --device "$device" "${small[@]}" \
        --peers pcircuits "pcircuits, eager" plain pyjuice "pyjuice, float32" --out "$out/$name.json" "$@"
}

needed=(hypothesis llvmlite matplotlib networkx numba numpy pyjuice pytest rich safetensors scipy)
lacking=$(missing "${needed[@]}")
if [[ -n $lacking ]] && compgen -G "$wheels/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" \
        "$wheels"/*.whl || echo "gpu.sh: the wheels in $wheels could not be installed"
    lacking=$(missing "${needed[@]}")
fi
[[ -z $lacking ]] || echo "gpu.sh: Python lacks: $lacking"

if [[ $device == cuda ]]; then
    small=()
    # Pytest's status 5 says that no test is marked; that is no failure.
    attempt tests 110 bash -c "'$python' -m pytest -m gpu || [[ \$? == 5 ]]"
else
    small=(--quick)
fi
attempt coupling-step 65 "$python" -m benchmarks coupling-step --device "$device" "${small[@]}" \
    --out "$out/coupling-step.json"
compare compare-step 50 --cases step-soft step-listed
compare compare-hmm 75 --cases hmm-1024
compare compare-hclt 55 --cases hclt-256
compare compare-rat 55 --cases rat-256
compare compare-trees 60 --cases tree-256 tree-pairs-64 poon-domingos-28
"$python" -m benchmarks report "$out"
exit "$failed"
