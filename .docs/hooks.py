"""MkDocs hooks: make pages of the README files, of every command's --help and of every module's docstrings."""

import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "conf/README.md": "options.md",
    "alerce_early/data/readers/README.md": "formats.md",
    "alerce_early/serving/README.md": "deploying.md",
    "alerce_early/pretrained/README.md": "networks.md",
    "alerce_early/labelling/README.md": "labelling.md",
    "alerce_early/simulation/README.md": "simulation.md",
    ".github/CONTRIBUTING.md": "contributing.md",
    ".github/SECURITY.md": "security.md",
    ".docs/changelog.md": "changelog.md",
}
FILES = ("alerce_early/report/example.png", "alerce_early/data/class_names.csv")
LAYERS = (
    *("data", "models", "tasks", "evaluation", "simulation", "artifacts"),
    *("training", "serving", "report", "labelling", "experiments"),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and their files to the site."""
    pages = {page: _read(source) for source, page in PAGES.items() if not source.startswith(".docs/")}
    pages |= {"commands.md": _describe_commands(), "api.md": _list_modules()}
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    for file in FILES:
        files.append(File.generated(config, file, abs_src_path=str(ROOT / file)))
    return files


def _read(source: str) -> str:
    """Return a README whose relative links lead to the pages of this site."""

    def relink(link: re.Match[str]) -> str:
        target, _, anchor = link[1].partition("#")
        if not target or "://" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        path = f"{path}/README.md" if (ROOT / path).is_dir() else path
        return f"]({PAGES.get(path, path)}{'#' + anchor if anchor else ''})"

    return re.sub(r"\]\(([^)\s]+)\)", relink, (ROOT / source).read_text())


def _describe_commands() -> str:
    sys.path.insert(0, str(ROOT))
    from alerce_early.__main__ import VERBS

    text = "# Commands\n\n`alerce-early COMMAND` is `python -m alerce_early.COMMAND`.\n"
    for verb in VERBS:
        command = [sys.executable, "-m", f"alerce_early.{verb}", "--help"]
        shown = subprocess.run(command, cwd=ROOT, env=os.environ | {"COLUMNS": "100"}, capture_output=True, text=True)
        if shown.returncode:
            raise RuntimeError(f"{' '.join(command)}: {shown.stderr}")
        text += f"\n## {verb}\n\n```text\n{shown.stdout.strip()}\n```\n"
    return text


def _list_modules() -> str:
    text = "# API\n\nFrom the bottom of the house to its top; code imports only upwards in this list.\n"
    for layer in LAYERS:
        text += f"\n## {layer}\n"
        for path in sorted((ROOT / "alerce_early" / layer).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if not module.endswith(("__init__", "__main__")):
                text += f"\n::: {module}\n    options: {{heading_level: 3}}\n"
    return text
