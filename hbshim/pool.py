"""Lends connections, and takes them back."""
