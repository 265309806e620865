"""Content as JSON lines, out and in."""
