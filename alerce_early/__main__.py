"""All verbs as one command: `alerce-early VERB ...` is `python -m alerce_early.VERB ...`."""

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
    """Return the first line of what a verb's module says of itself; it is read, for an import may take seconds."""
    here = Path(__file__).parent
    file = here / verb / "__main__.py" if (here / verb).is_dir() else here / f"{verb}.py"
    said = ast.get_docstring(ast.parse(file.read_text())) or ""
    return said.partition("\n")[0].partition(": `python")[0].rstrip(".")


@exit_on_input_error
def main() -> None:
    """Become the program of the verb that is asked for, or tell which there are."""
    verb = sys.argv[1] if sys.argv[1:] else "--help"
    if verb in VERBS:
        os.execv(sys.executable, [sys.executable, "-m", f"alerce_early.{verb}", *sys.argv[2:]])
    elif verb in ("-h", "--help"):
        told = [f"  {verb:10} {describe(verb)}" for verb in VERBS]
        print("usage: alerce-early VERB ..., alerce-early VERB --help, alerce-early --version", "", *told, sep="\n")
    elif verb == "--version":
        print(f"alerce-early {VERSION}")
    else:
        near = get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise InputError(f"{verb} is no verb; wanted one of {', '.join(VERBS)}{hint}")


if __name__ == "__main__":
    main()
