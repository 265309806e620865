"""Rows in and out of the table."""
