"""Column types, and what a JSON document may hold."""
