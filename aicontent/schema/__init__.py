"""Migrations, and the definitions they add up to."""
