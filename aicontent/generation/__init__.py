"""From a request to its content."""
