#!/bin/sh
# Serve /site, and let standard input and output control a browser (DevTools over a pipe: messages
# in JSON, a zero byte after each).
busybox httpd -p 127.0.0.1:8000 -h /site
exec chromium-headless-shell --no-sandbox --disable-dev-shm-usage --disable-gpu \
  --hide-scrollbars --remote-debugging-pipe 3<&0 4>&1 >&2
