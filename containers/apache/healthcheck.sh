#!/bin/bash
# Healthy: httpd listens. The kernel's table is read instead of sending a request: prefork's one
# process is under observation, and a probe would wake it.
grep -qE "^ *[0-9]+: [0-9A-F]+:0050 [0-9A-F]+:0000 0A " /proc/net/tcp /proc/net/tcp6
