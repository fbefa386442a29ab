"""``python -m wsgi_harness``: reproduce the lost heartbeats, and prove the fix."""

from wsgi_harness.errors import needs_test_extra

if __name__ == "__main__":
    with needs_test_extra():
        from wsgi_harness.cli import main
    main(prog_name="python -m wsgi_harness")
