"""The program patches after hbshim has checked once: the next check finds it."""

import hbshim

before = hbshim.detect()

import eventlet

imported = hbshim.detect()
eventlet.monkey_patch()
after = hbshim.detect()

assert (before.green.library, before.choice.worker) == ("none", "pthread")
assert imported.green.eventlet.loaded
assert (imported.green.library, imported.choice.worker) == ("none", "pthread")
assert (after.green.library, after.green.extent) == ("eventlet", "full")
assert after.choice.worker == "greenthread"

print("pass")
