"""Export and import content as JSON lines."""
