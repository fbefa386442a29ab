#!/bin/sh
# Makes a key pair for each machine, and gives each one the public keys that it needs. The secret
# key of a machine is in the volume of that machine only.
set -e
cd /keys
for name in host-1 host-2 client; do
    [ -e "$name/$name.secret" ] || hbshim zmq-keys "$name" --folder "$name"
done
for host in host-1 host-2; do
    cat client/client.public > "$host/clients"
done
cat host-1/host-1.public host-2/host-2.public > client/proxies
