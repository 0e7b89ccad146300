"""A page about a program and all of its commands, from its argument parser."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from typing import Final

OWN: Final = ("positional arguments", "options")
COMMON: Final = "--json"


def page(parser: argparse.ArgumentParser, introduction: str) -> str:
    """The reference of `parser`: a section for each command, then the groups of options that commands share."""
    commands = list(_commands(parser))
    shared = _shared(commands)
    parts = [f"# `{parser.prog}`", parser.description or "", introduction.strip()]
    parts += [_overview(commands)]
    parts += [_section(command, shared) for command in commands]
    parts += [_group_section(title, rows) for title, rows in shared.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every command that does something itself, depth first, in the parser's order."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                below = list(_commands(command))
                yield from below or [command]


def _groups(command: argparse.ArgumentParser) -> dict[str, str]:
    """The tables of a command's options by the title of their group."""
    tables = {
        group.title or "options": _table(command, group._group_actions)
        for group in command._action_groups
    }
    return {title: table for title, table in tables.items() if table}


def _shared(commands: list[argparse.ArgumentParser]) -> dict[str, str]:
    """The groups that several commands have alike."""
    found = Counter((t, table) for c in commands for t, table in _groups(c).items() if t not in OWN)
    return {title: table for (title, table), count in found.items() if count > 1}


def _overview(commands: list[argparse.ArgumentParser]) -> str:
    rows = [
        f"| [`{c.prog}`](#{_anchor(c.prog)}) | {_cell(c.description or '')} |" for c in commands
    ]
    return "\n".join(["| command | purpose |", "| --- | --- |", *rows])


def _section(command: argparse.ArgumentParser, shared: dict[str, str]) -> str:
    parts = [f"## `{command.prog}`", f"{(command.description or '').rstrip('.')}."]
    parts.append(f"```text\n{_usage(command)}\n```")
    for title, table in _groups(command).items():
        parts.append(f"See also: [{title}](#{_anchor(title)})." if title in shared else table)
    if command.epilog:
        parts.append(f"```text\n{_dedented(command.epilog)}\n```")
    return "\n\n".join(parts)


def _group_section(title: str, table: str) -> str:
    return f"## {title[:1].upper()}{title[1:]}\n\nSeveral commands take these options.\n\n{table}"


def _usage(command: argparse.ArgumentParser) -> str:
    words = [command.prog, "[OPTIONS]"]
    for action in command._actions:
        if not action.option_strings:
            name = _value(action)
            words.append({"?": f"[{name}]", "*": f"[{name} ...]"}.get(str(action.nargs), name))
    return " ".join(words)


def _table(command: argparse.ArgumentParser, actions: list[argparse.Action]) -> str:
    rows = [_row(command, action) for action in actions if _is_shown(action)]
    return "\n".join(["| argument | meaning |", "| --- | --- |", *rows]) if rows else ""


def _is_shown(action: argparse.Action) -> bool:
    hidden = isinstance(action, (argparse._HelpAction, argparse._VersionAction))
    return not hidden and action.help != argparse.SUPPRESS and COMMON not in action.option_strings


def _row(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    value = _value(action)
    names = [f"{name} {value}".strip() for name in action.option_strings] or [value]
    told = command._get_formatter()._expand_help(action) if action.help else ""
    return f"| {', '.join(f'`{_cell(name)}`' for name in names)} | {_cell(told)} |"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices is not None and action.metavar is None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _dedented(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _anchor(title: str) -> str:
    return title.lower().replace("`", "").replace(" ", "-")
