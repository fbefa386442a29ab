"""hbshim beneath kombu. Importing this registers nothing: ``hbshim.kombu.register()`` does."""
