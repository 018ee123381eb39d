#!/usr/bin/env bash
# All tests, in two processes. Those marked `beside` start no server and judge nothing by the clock: they run while the others
# leave a processor idle, and only then (chrt --idle), so that no measurement waits for them.
#   usage: scripts/test.sh PYTHON [arguments of pytest]       (with arguments: one process)
set -u
python=$1
shift
[ $# -eq 0 ] && chrt --idle 0 true 2> /dev/null || exec "$python" -m pytest "$@"

words=$(mktemp)
trap 'kill "$beside" 2> /dev/null; rm -f "$words"' EXIT
chrt --idle 0 "$python" -m pytest -m beside > "$words" 2>&1 &
beside=$!
"$python" -m pytest -m "not beside"
status=$?
wait "$beside"
beside_status=$?
echo "Tests beside them:"
cat "$words"
exit $((status ? status : beside_status))
