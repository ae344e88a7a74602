"""Print docs/commands.md, the reference of the command line, which Typer writes."""

import typer.main
from typer.cli import get_docs_for_click

from workflows.cli import app

command = typer.main.get_command(app)
for one in command.commands.values():
    one.short_help = " ".join(one.help.split("\n\n")[0].split())  # otherwise cut after 45 characters
page = get_docs_for_click(obj=command, ctx=typer.Context(command), name="hashkiln", title="Commands")
print(page.strip())
