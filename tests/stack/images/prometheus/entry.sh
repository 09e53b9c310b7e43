#!/bin/sh
# Prometheus 3's flag for OTLP isn't known to 2.53; all others are.
for word; do
  shift
  [ "$word" = --web.enable-otlp-receiver ] || set -- "$@" "$word"
done
exec prometheus "$@"
