#!/bin/bash
# Healthy: every listener open, and the node itself says once that it has started.
# The kernel's table is read instead of connecting: a probe would be a line in the broker's log,
# and `rabbitmqctl` boots a whole Erlang machine, too dear for once a second on two cores.
set -euo pipefail

for port in 5671 5672 15672; do
  hex=$(printf '%04X' "$port")
  grep -qE "^ *[0-9]+: [0-9A-F]+:$hex [0-9A-F]+:0000 0A " /proc/net/tcp /proc/net/tcp6
done

# await_startup can fail at once while the node registers itself; Docker calls again in a second.
started=/run/rabbitmq-started
if ! [ -e "$started" ]; then
  HOME=/var/lib/rabbitmq rabbitmqctl --quiet await_startup --timeout 15
  touch "$started"
fi
