"""Writing a model's labels, atomically.

Above: `__main__`. Below: `repository`, which reads them; the watcher follows the file.
"""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from service.repository import LABELS_FILE


def write_labels(model_folder: Path, labels: Mapping[str, int]) -> None:
    """Replace `labels.json` of a model in one step: a reader sees the old file or the new one, never a part.

    Args:
        model_folder: `models/<model>`.
        labels: label -> version; none at all removes nothing but leaves an empty object.

    Raises:
        OSError: the folder cannot be written; the old file is then untouched.
    """
    data = (json.dumps(dict(labels), sort_keys=True) + "\n").encode()
    staged = model_folder / f".labels-{uuid.uuid4().hex}"
    try:
        with staged.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(model_folder / LABELS_FILE)
    finally:
        staged.unlink(missing_ok=True)
    folder = os.open(model_folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
