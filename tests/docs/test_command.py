"""The command's reference documents every subcommand with its usage and its options."""

from __future__ import annotations

import re

import click
import pytest

from aicontent.scripts.cli import main
from helpers import ROOT

PAGE = (ROOT / "docs/reference/command.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## aicontent ([a-z-]+)\n(.*?)(?=^## )", PAGE, re.M | re.S))
ROW = re.compile(r"^\| (`-[^|]*`) \| ([^|]*?) ?\| (.*) \|$", re.M)


def options_of(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option)]


def default_of(option: click.Option) -> str | None:
    """Return the default that the help shows, as a number or text; return None if there is none."""
    if isinstance(option.show_default, str):
        return option.show_default
    if not option.show_default:
        return None
    return f"{option.default:g}" if isinstance(option.default, float) else str(option.default)


def test_every_subcommand_has_a_section_and_a_row_of_the_overview():
    overview = re.findall(r"^\| \[`([a-z-]+)`\]\(#aicontent-([a-z-]+)\)", PAGE, re.M)
    assert overview == [(name, name) for name in sorted(main.commands)]
    assert list(SECTIONS) == sorted(main.commands)


@pytest.mark.parametrize("name", main.commands)
def test_a_section_has_the_usage_of_its_subcommand(name):
    command = main.commands[name]
    with click.Context(command, info_name=f"aicontent {name}") as ctx:
        usage = command.get_usage(ctx).removeprefix("Usage: ")
    assert re.findall(r"^    (aicontent .*)$", SECTIONS[name], re.M) == [usage]


@pytest.mark.parametrize("name", main.commands)
def test_a_section_has_the_options_of_its_subcommand(name):
    """The table lists the options in the help's order, with their defaults and choices."""
    rows = ROW.findall(SECTIONS[name])
    options = options_of(main.commands[name])
    assert [re.findall(r"(?<=`)-[a-z-]+", cell) for cell, _, _ in rows] == [
        option.opts for option in options
    ]
    for option, (cell, default, meaning) in zip(options, rows, strict=True):
        assert option.is_flag is not bool(re.search(r" [A-Z]+`$", cell)), cell
        shown = default_of(option)
        if shown is not None and not option.is_flag:
            assert default.strip("`") == shown, cell
        if isinstance(option.type, click.Choice) and option.metavar is None:
            for choice in option.type.choices:
                assert f"`{choice}`" in meaning, (cell, choice)


def test_the_values_of_a_type_are_listed():
    section = re.search(r"^## Content types\n(.*?)^## ", PAGE, re.M | re.S)
    assert section is not None
    (types,) = {
        tuple(option.type.choices)
        for command in main.commands.values()
        for option in options_of(command)
        if option.metavar == "TYPE"
    }
    assert tuple(re.findall(r"`(\w+)`", section[1])) == types
