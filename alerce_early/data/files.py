"""The files a path stands for: one file, those of a folder, or those a pattern matches."""

from glob import glob, has_magic
from pathlib import Path

from alerce_early.errors import InputError


def matching(path: str | Path, ends: tuple[str, ...] = ("",), given: str = "with data.path=FILE") -> list[Path]:
    """Sorted files; a folder gives all inside it, at any depth, whose names end in one of `ends`.

    A single file is returned whatever its name. Raises InputError if there is none; given: how such a path is given.
    """
    place = Path(str(path))
    if place.is_file():
        return [place]
    if place.is_dir():
        found = [file for file in place.rglob("[!.]*") if file.name.endswith(ends) and file.is_file()]
    else:
        found = [Path(name) for name in glob(str(path), recursive=True)] if has_magic(str(path)) else []
    if not found:
        kind = f" {' or '.join(ends)}" if any(ends) else ""
        raise InputError(f"{path} cannot be read: No such{kind} file. Give a file, folder or 'pattern*' {given}.")
    return sorted(found)
