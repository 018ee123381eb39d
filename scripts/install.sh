#!/usr/bin/env bash
# Makes the environment: a virtual environment in FOLDER with vLLM and this workbook in it.
#   usage: scripts/install.sh FOLDER cpu|gpu       (PYTHON=... chooses the interpreter)
# It says what it does in a few lines; pip's own words go to FOLDER/install.log.
# Every package is of the version, and its file of the hash, that requirements/KIND.lock names (scripts/lock.sh), but for
# torch and torchvision on a CPU.
set -u
folder=$1 kind=$2
root=$(cd "$(dirname "$0")/.." && pwd)
log=$folder/install.log

fail() { echo "error: $1" >&2; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; }
find_python() {
    for candidate in ${PYTHON:-python3 python3.12 python3.13 python3.11 python3.14}; do
        if new_enough "$candidate"; then echo "$candidate"; return; fi
    done
    return 1
}
pin() { sed -n "s/.*\"\($1==[^\"]*\)\".*/\1/p" "$root/pyproject.toml" | head -n 1; }

# One line of the log that says why pip gave up.
reason() { grep -E '^ *(ERROR|error)|No space left' "$log" | grep -v 'legacy' | head -n 1 | cut -c1-200; }
# Without compiling: pip does it on one processor, compile() below on all.
pip_install() { "$folder/bin/python" -m pip --disable-pip-version-check install -qq --no-compile "$@" >> "$log" 2>&1; }

# Never left to the first import: where PYTHONDONTWRITEBYTECODE is set, as in many containers, that would be every import,
# and that of vLLM takes three times as long. A package may hold files that are no Python of this version: the log has them.
compile() { "$folder/bin/python" -m compileall -q -j 0 "$folder/lib" >> "$log" 2>&1; }

python=$(find_python) || fail "Python 3.11 to 3.14 is needed and was not found (${PYTHON:-python3, python3.11 ... python3.14}): install one, or name it: make PYTHON=/path/to/python3.12"

need_gb=6; [ "$kind" = gpu ] && need_gb=16
free_kb=$(df -Pk "$(dirname "$folder")" | awk 'NR == 2 {print $4}')
[ "$free_kb" -ge $((need_gb * 1024 * 1024)) ] ||
    fail "the environment needs $need_gb GB of disk and $((free_kb / 1024 / 1024)) GB are free in $(dirname "$folder"): free some, or put it elsewhere: make VENV=/other/folder"

echo "making the environment in $folder ($kind, $("$python" -V)); this takes some minutes, once"
mkdir -p "$folder" && : > "$log" || fail "$folder cannot be written"
"$python" -m venv "$folder" >> "$log" 2>&1 ||
    fail "$python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv); the log is $log"

if [ "$kind" = cpu ] && [ "$(uname -s)" = Linux ]; then
    # vLLM for the CPU is built against the CPU build of torch, which general indexes do not carry. The
    # indexes that pip is set up with are asked first (they may mirror it); else uv knows where it lies.
    echo "  torch, CPU build"
    torch=$(pin torch) vision=$(pin torchvision)
    pip_install "$torch+cpu" || {
        pip_install uv && "$folder/bin/uv" pip install --quiet --python "$folder/bin/python" \
            --torch-backend cpu "$torch" "$vision" >> "$log" 2>&1
    } || fail "torch could not be installed ($(reason)): is the network up? The log is $log"
fi
echo "  vLLM, JupyterLab and the rest"
# Wheels alone: nothing of a package runs while it is installed. The lock is whole, so that pip has nothing to look for
# besides; the last step checks that, and adds what the lock leaves out.
{ pip_install --require-hashes --no-deps --only-binary :all: -r "$root/requirements/$kind.lock" &&
    pip_install -e "$root[$kind,test]"; } || fail "the packages could not be installed ($(reason)): is the network up, is the disk full? The log is $log"
compile
echo "  done"
