"""Writing files whole or not at all."""

from etils import epath


def write_bytes(file: epath.PathLike, content: bytes) -> None:
    """Writes to a temporary name beside `file`, then renames over it; makes the folder where it is missing."""
    file = epath.Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.parent / f".{file.name}.tmp"
    temporary.write_bytes(content)
    temporary.replace(file)


def write_text(file: epath.PathLike, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(file, text.encode())
