"""Clean up, and inspect the table."""
