"""What the `aicontent` command runs: a thin shell over the library."""
