"""All commands in one: `alerce-early VERB ...` runs `python -m alerce_early.VERB ...`."""

import ast
import os
import sys
from difflib import get_close_matches
from pathlib import Path

from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.files import VERSION

VERBS = (
    "train",
    "predict",
    "serve",
    "label",
    "report",
    "compare",
    "explain",
    "export",
    "generate",
    "prepare",
    "search",
    "neighbours",
)


def describe(verb: str) -> str:
    """Return the summary line of a command's module, read from the file because importing it may take seconds."""
    here = Path(__file__).parent
    file = here / verb / "__main__.py" if (here / verb).is_dir() else here / f"{verb}.py"
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return docstring.partition("\n")[0].partition(": `python")[0].rstrip(".")


@exit_on_input_error
def main() -> None:
    """Replace this process by the given command, or print the list of commands."""
    verb = sys.argv[1] if sys.argv[1:] else "--help"
    if verb in VERBS:
        os.execv(sys.executable, [sys.executable, "-m", f"alerce_early.{verb}", *sys.argv[2:]])
    elif verb in ("-h", "--help"):
        lines = [f"  {verb:10} {describe(verb)}" for verb in VERBS]
        print("usage: alerce-early VERB ..., alerce-early VERB --help, alerce-early --version", "", *lines, sep="\n")
    elif verb == "--version":
        print(f"alerce-early {VERSION}")
    else:
        near = get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise InputError(f"{verb} is not a command. Choose from {', '.join(VERBS)}{hint}")


if __name__ == "__main__":
    main()
