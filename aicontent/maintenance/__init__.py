"""Cleanup, and looking after the table."""
