"""Run the `aicontent` command, a thin shell over the library."""
