#!/bin/bash
# Runs the proxy and the server of a host. On a real host each is a service of the init system.
hbshim zmq-proxy \
    --secret-key-file "/etc/hbshim/$HOSTNAME.secret" --allowed-keys /etc/hbshim/clients &
proxy=$!
python3 /srv/example/server.py &
server=$!

stop() {
    # The server first: the proxy forwards the replies of the calls that it still runs.
    kill "$server" && wait "$server"
    kill "$proxy" && wait "$proxy"
    exit
}
trap stop TERM INT
# If one of them ends by itself, the container ends with the other one.
wait -n "$proxy" "$server"
exit 1
