"""The same steps in an event loop: nothing here blocks it, and no rule is written twice."""
