#!/usr/bin/env bash
# Run the workbook on a GPU host that is only there for some minutes, without a network and without a model:
#   scripts/gpu_run.sh OUT SECONDS [arguments of `workbook run`]
# It ends after SECONDS at the latest, and what has been measured by then is packed into OUT, in parts of 15 MB. Elsewhere:
# cat OUT/run.tar.gz.* | tar xz -C outputs, then `workbook report NAME`.
# PYTHON: an interpreter that has vLLM and the packages of pyproject.toml (else that of .venv, else python3).
set -uo pipefail
[ $# -ge 2 ] || { echo "usage: $0 OUT SECONDS [arguments of workbook run]" >&2; exit 2; }
out=$(mkdir -p "$1" && cd "$1" && pwd) seconds=$2 packing=45
shift 2
cd "$(dirname "$0")/.."
flags="--max-model-len 32768 --limit-mm-per-prompt '{\"image\":4,\"video\":0}' --skip-mm-profiling"
[ $# -gt 0 ] || set -- --profile h200 --server shape:Qwen3-VL-2B-Instruct --flags "$flags" 00 01 02 03 04 05 07 08 06 09
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
name=gpu-$(date +%Y-%m-%d-%H%M%S)
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
unset PYTHONDONTWRITEBYTECODE  # each of the servers that 06 starts would compile vLLM anew: ten seconds

"$python" -c 'from lib.telemetry import Gpus; print("NVML:", Gpus().sample())'
# The run ends by itself before that, with a report. Should it not, the interrupt ends it: what is there is reported, the server is stopped.
within=$("$python" -c "print(round(($seconds - $packing - 15) / 60, 2))")
timeout -s INT -k $((packing - 15)) $((seconds - packing)) "$python" -m lib.cli run --name "$name" --within "$within" "$@"
status=$?
tar cz -C outputs "$name" | split -b 15000000 -d - "$out/run.tar.gz."
"$python" - "$name" <<'PYTHON'
import sys
from lib.rundir import RunDir
from lib.tables import number

run = RunDir(sys.argv[1])
for id, figure in run.figures().items():
    if figure["headline"] or figure.get("table") or figure["name"].endswith(", mean"):
        low, high = map(number, figure["interval"])
        print(f"{id:<40} {figure['name']:<36} {number(figure['value']):>9} {figure['unit']:<11} {low} – {high}, n {figure['n']}, {figure['verdict']}")
for name, state in run.info().get("notebooks", {}).items():
    print(f"{name:<20} {state['status']:<12} {state.get('seconds', '–')} s  {state.get('error', '')[:300]}")
PYTHON
exit $status
