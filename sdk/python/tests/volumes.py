"""Directories as a kubelet makes them: a version in a directory of its own, `..data` pointing at it, swapped by rename."""

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path


class Volume:
    """A mounted Secret or ConfigMap. The steps are those of Kubernetes' AtomicWriter, in its order."""

    def __init__(self, path: Path, files: Mapping[str, bytes]) -> None:
        self.path = path
        path.mkdir()
        self.swap(files)

    def swap(self, files: Mapping[str, bytes]) -> None:
        """Make `files` the content, all at once."""
        data = self.path / "..data"
        old = data.resolve() if data.is_symlink() else None
        version = self.path / f"..{uuid.uuid4().hex}"
        version.mkdir()
        for name, content in files.items():
            target = version / name
            target.parent.mkdir(exist_ok=True, parents=True)
            target.write_bytes(content)
        (self.path / "..data_tmp").symlink_to(version.name)
        (self.path / "..data_tmp").rename(data)
        tops = {name.split("/")[0] for name in files}
        for top in tops:
            if not (self.path / top).is_symlink():
                (self.path / top).symlink_to(f"..data/{top}")
        for entry in self.path.iterdir():
            if not entry.name.startswith("..") and entry.name not in tops:
                entry.unlink()
        if old is not None:
            shutil.rmtree(old)


def write_plain(path: Path, files: Mapping[str, bytes]) -> None:
    """Write files one after the other, as a person or `cp` does."""
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
