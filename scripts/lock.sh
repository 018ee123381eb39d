#!/usr/bin/env bash
# Writes requirements/cpu.lock and gpu.lock anew: every package of both environments with its version and its files' hashes,
# for Python 3.11 to 3.14. Run it when a pin in pyproject.toml changes, or for newer releases of what the pins need.
#
# Two packages of the CPU environment are not in its lock. torch's CPU build is another file wherever it comes from (an
# index's, one that lies on this machine), and so is torchvision's; a hash of one would refuse the others. Their versions
# are pinned in pyproject.toml, and scripts/install.sh fetches them.
set -eu
cd "$(dirname "$0")/.."
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT

python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip --disable-pip-version-check install -q uv
printf 'torch\ntorchvision\n' > "$here/elsewhere"
compile() {  # NAME ARGUMENTS...: takes newer releases too; what comes before the packages would name an index
    out=$1; shift
    "$here/venv/bin/uv" pip compile --quiet --upgrade --universal --python-version 3.11 --no-build --generate-hashes --no-header \
        --no-annotate --no-emit-index-url --no-emit-find-links --output-file "requirements/$out.lock" --extra test "$@"
    echo "requirements/$out.lock: $(grep -c '^[a-zA-Z]' "requirements/$out.lock") packages"
}
compile cpu --extra cpu --excludes "$here/elsewhere" pyproject.toml requirements/cpu.in
compile gpu --extra gpu pyproject.toml
