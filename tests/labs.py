"""Labs of one module of tests, on a Ray that this process has joined."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.client import Lab
from actors.launch import lower_lab, raise_lab


@contextmanager
def labs(
    address: str, parts: Path, folder_of: Callable[[str], Path], write_file: Callable[..., Path]
) -> Iterator[Callable[..., Lab]]:
    """Give what brings up a lab of a name; all that it brought up are taken down in the end.

    The file is what `write_file` writes for `parts`, unless `text` gives another.
    """
    names: set[str] = set()

    def make(name: str, *, text: str = "", **settings: object) -> Lab:
        file = folder_of(name) / "cluster.yaml"
        if text:
            file.write_text(text, encoding="utf-8")
        elif not file.exists():
            write_file(file.parent, parts, name=name, **settings)
        names.add(name)
        return raise_lab(str(file))

    try:
        yield make
    finally:
        for name in sorted(names):
            lower_lab(name, address=address)
