"""A message router for tests, on qpid-proton: an executable specification of a real one's behavior.

It behaves as skupper-router and qpid-dispatch do where a messaging driver can see it: requirements
R1 to R13 in ``docs/test-router.md``, each with a test that also runs against a real router. It is
written on proton, not on hbshim's own engine, so that an error of the engine is not at both ends.

``python -m wsgi_harness.router`` runs it; it needs an interpreter with proton, which
:mod:`wsgi_harness.router.environment` installs.
"""
