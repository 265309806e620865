"""Column types, and the policy for JSON documents."""
