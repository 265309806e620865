"""Run the steps of `generation` in an event loop without blocking it."""
