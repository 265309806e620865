"""Validate, insert, find and update rows."""
