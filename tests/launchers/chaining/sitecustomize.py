"""Of a launcher that runs the sitecustomize that it hides, as ddtrace's does."""

import builtins
import os
import sys

builtins.launcher_active = True  # type: ignore[attr-defined]

here = os.path.dirname(os.path.abspath(__file__))
path = list(sys.path)
own = sys.modules.pop("sitecustomize", None)
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
try:
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
except ImportError:
    pass
finally:
    sys.path[:] = path
    sys.modules.setdefault("sitecustomize", own)  # type: ignore[arg-type]
