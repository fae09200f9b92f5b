#!/bin/sh
# Compiler launcher for nvcc: keeps ptxas's report in OBJECT.ptxas and shows everything else.
object=
previous=
for argument; do
  if [ "$previous" = -o ]; then object=$argument; fi
  previous=$argument
done
[ -n "$object" ] || exec "$@"
"$@" >"$object.ptxas" 2>&1
status=$?
grep -vE '^ptxas info|^ +[0-9]+ bytes stack frame|^$' "$object.ptxas"
exit $status
