"""Run the command as `python -m aicontent`."""

from importlib import import_module

if __name__ == "__main__":
    # A checkout keeps the command in scripts/, where type checkers do not find it by this name.
    import_module("aicontent.scripts.cli").main(prog_name="aicontent")
