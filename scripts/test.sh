#!/usr/bin/env bash
# All tests, in two processes. Those marked `beside` judge nothing by the clock: they run while the others leave a processor idle,
# and only then, so that no measurement waits for them. They are idle by class (chrt) and, where the kernel schedules by session, in
# sessions that give way (setsid, and tests/conftest.py). The runs that they make are in a copy of the checkout, as is its outputs/latest.
#   usage: scripts/test.sh PYTHON [arguments of pytest]       (with arguments: one process)
set -u
python=$1 beside=
shift
[ $# -eq 0 ] && chrt --idle 0 true 2> /dev/null || exec "$python" -m pytest "$@"

case $python in /*) ;; *) python=$PWD/$python ;; esac
place=$(mktemp -d)
trap '[ -z "$beside" ] || kill "$beside" 2> /dev/null; rm -rf "$place"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$place/copy/outputs"
tar -cf - --exclude=outputs --exclude-tag-all=pyvenv.cfg -- * | tar -xf - -C "$place/copy"  # environments stay where they are
(cd "$place/copy" && GIVES_WAY=1 PYTHONPATH=$place/copy exec setsid chrt --idle 0 "$python" -m pytest -m beside -p no:cacheprovider) > "$place/words" 2>&1 &
beside=$!
BESIDE=$beside "$python" -m pytest -m "not beside"
status=$?
wait "$beside"
beside_status=$? beside=
echo "Tests that ran beside these:"
cat "$place/words"
exit $((status ? status : beside_status))
