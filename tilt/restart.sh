#!/bin/sh
# restart.sh PROGRAM [ARGUMENTS]: runs a program, and again whenever it is ended from outside. To be told to stop is passed on, and
# then it stays ended; to fail by itself is passed on too.
stopping=
trap 'stopping=1; kill -TERM "$pid" 2>/dev/null' TERM INT
while :; do
  "$@" &
  pid=$!
  echo "$pid" >/tmp/service.pid
  wait "$pid"
  code=$?
  if [ -n "$stopping" ]; then # wait returned for the signal, not for the program's end
    wait "$pid"
    exit
  fi
  # A service that is told to stop, as live update does, ends well.
  [ "$code" = 0 ] || [ "$code" = 143 ] || exit "$code"
done
