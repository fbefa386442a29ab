"""Of a launcher that runs no sitecustomize that it hides, as OpenTelemetry's does."""

import builtins

builtins.launcher_active = True  # type: ignore[attr-defined]
