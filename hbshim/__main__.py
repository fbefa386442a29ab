"""``python -m hbshim``: the ``hbshim`` command."""

from hbshim.cli import main

if __name__ == "__main__":
    main()
