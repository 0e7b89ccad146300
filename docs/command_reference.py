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
    shared, everywhere = _shared(commands), _everywhere(commands)
    parts = [f"# `{parser.prog}`", parser.description or "", introduction.strip()]
    parts += [_overview(commands), "## Options of every command" if everywhere else ""]
    parts += [_table(everywhere)]
    parts += [_section(command, shared, everywhere) for command in commands]
    parts += [_group_section(title, _table(rows)) for title, rows in shared.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every command that does something itself, depth first, in the parser's order."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                below = list(_commands(command))
                yield from below or [command]


def _groups(command: argparse.ArgumentParser) -> dict[str, tuple[str, ...]]:
    """The rows of a command's options by the title of their group."""
    return {
        group.title or "options": tuple(
            _row(command, a) for a in group._group_actions if _is_shown(a)
        )
        for group in command._action_groups
    }


def _shared(commands: list[argparse.ArgumentParser]) -> dict[str, tuple[str, ...]]:
    """The groups that several commands have alike."""
    found = Counter((t, rows) for c in commands for t, rows in _groups(c).items() if t not in OWN)
    return {title: rows for (title, rows), count in found.items() if rows and count > 1}


def _everywhere(commands: list[argparse.ArgumentParser]) -> tuple[str, ...]:
    """The options that every command has alike, in their order."""
    first, *others = [_groups(command).get("options", ()) for command in commands]
    return tuple(row for row in first if all(row in rows for rows in others))


def _overview(commands: list[argparse.ArgumentParser]) -> str:
    rows = [
        f"| [`{c.prog}`](#{_anchor(c.prog)}) | {_cell(_capital(c.description or ''))} |"
        for c in commands
    ]
    return "\n".join(["| command | purpose |", "| --- | --- |", *rows])


def _section(
    command: argparse.ArgumentParser,
    shared: dict[str, tuple[str, ...]],
    everywhere: tuple[str, ...],
) -> str:
    told = (command.description or "").rstrip(".")
    parts = [f"## `{command.prog}`", f"{_capital(told)}."]
    parts.append(f"```text\n{_usage(command)}\n```")
    for title, rows in _groups(command).items():
        own = tuple(row for row in rows if row not in everywhere)
        link = f"See also: [{title}](#{_anchor(title)})."
        if rows and rows == shared.get(title):
            parts.append(link)
        elif own:
            parts += [] if title in OWN else [f"{_capital(title)}:"]
            parts.append(_table(own))
    if command.epilog:
        parts.append(f"```text\n{_dedented(command.epilog)}\n```")
    return "\n\n".join(part for part in parts if part)


def _group_section(title: str, table: str) -> str:
    return f"## {_capital(title)}\n\nSeveral commands take these options.\n\n{table}"


def _usage(command: argparse.ArgumentParser) -> str:
    words = [command.prog, "[OPTIONS]"]
    for action in command._actions:
        if not action.option_strings:
            name = _value(action)
            words.append({"?": f"[{name}]", "*": f"[{name} ...]"}.get(str(action.nargs), name))
    return " ".join(words)


def _table(rows: tuple[str, ...]) -> str:
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


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _anchor(title: str) -> str:
    return title.lower().replace("`", "").replace(" ", "-")
