"""Tables in text files, as spreadsheets and scripts of all systems write them."""

import csv
import io

import numpy as np

from fedjax_sim.data.archives import Place
from fedjax_sim.data.dataset import Origin
from fedjax_sim.data.files import content, look

_DELIMITERS = ",;\t"


def _delimiter(head: str) -> str:
    """The one that occurs most often in the first line."""
    return max(_DELIMITERS, key=head.count)


def read_table(path: Place, columns: tuple[str, ...], origin: Origin) -> list[list]:
    """Returns the values of some columns, row by row, as text.

    The delimiter is a comma, a semicolon or a tab; a byte order mark and any line ends
    are taken; case and blanks around the names of the columns do not matter.

    Raises:
      InputError: it is no such table, or a row is too short.
    """
    found = content(path, origin)
    try:
        text = found.decode("utf-8-sig")
        lines = text.splitlines()
        rows = list(csv.reader(lines, delimiter=_delimiter(lines[0])))
        head = [name.strip().lower() for name in rows[0]]
        places = [head.index(column.lower()) for column in columns]
        return [[row[k].strip() for k in places] for row in rows[1:] if row]
    except (UnicodeDecodeError, IndexError, ValueError, csv.Error) as error:
        raise origin.error(
            f"'{path}' is not a table with the columns {', '.join(columns)}; it looks "
            f"like {look(found)}"
        ) from error


def read_numbers(path: Place, origin: Origin) -> np.ndarray:
    """Returns uint8 [rows, columns], with or without a line of names above.

    Raises:
      InputError: there is anything but whole numbers from 0 to 255 below that line.
    """
    file = io.TextIOWrapper(io.BytesIO(content(path, origin)), encoding="utf-8-sig")
    try:
        head = file.readline()
        delimiter = _delimiter(head)
        named = not head.split(delimiter)[0].strip().strip('"').isdigit()
        file.seek(0)
        return np.loadtxt(
            file, np.uint8, delimiter=delimiter, skiprows=int(named), ndmin=2
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise origin.error(
            f"'{path}' is not a table of numbers from 0 to 255 ({error}); it looks "
            f"like {look(path)}"
        ) from error
