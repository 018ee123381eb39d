#!/usr/bin/env bash
# All tests, in two processes. Those marked `beside` measure nothing and judge nothing by the clock: they run while the others
# leave a processor idle, and only then (chrt --idle), so that no measurement waits for them.
#   usage: scripts/test.sh PYTHON [arguments of pytest]       (with arguments: one process)
set -u
python=$1 beside=
shift
[ $# -eq 0 ] && chrt --idle 0 true 2> /dev/null || exec "$python" -m pytest "$@"

words=$(mktemp)
trap '[ -z "$beside" ] || kill "$beside" 2> /dev/null; rm -f "$words"' EXIT
trap 'exit 130' INT TERM
chrt --idle 0 "$python" -m pytest -m beside -p no:cacheprovider > "$words" 2>&1 &
beside=$!
BESIDE=$beside "$python" -m pytest -m "not beside"
status=$?
wait "$beside"
beside_status=$? beside=
echo "Tests that ran beside these:"
cat "$words"
exit $((status ? status : beside_status))
